"""Import all run layouts, so that they are registered.

A folder has the first layout that fits it: those with special names come first.
"""

from __future__ import annotations

from ensembles.checkpoints.runs.layouts import (
    espnet,
    huggingface,
    icefall,
    megatron,
    nemo,
    timm,
    wenet,
)
from ensembles.checkpoints.runs.layouts.table import LAYOUTS

__all__ = [
    "LAYOUTS",
    "espnet",
    "huggingface",
    "icefall",
    "megatron",
    "nemo",
    "timm",
    "wenet",
]
