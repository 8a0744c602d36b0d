"""All merge methods; importing this module adds them to the table `RULES`."""

from __future__ import annotations

from ensembles.checkpoints.methods.dare import dare_linear, dare_ties
from ensembles.checkpoints.methods.della import della_linear, della_ties
from ensembles.rules.builtin import RULES

__all__ = ["RULES", "dare_linear", "dare_ties", "della_linear", "della_ties"]
