"""Import all run layouts, so that they are registered."""

from __future__ import annotations

from ensembles.checkpoints.runs import huggingface
from ensembles.checkpoints.runs.layout import LAYOUTS

__all__ = ["LAYOUTS", "huggingface"]
