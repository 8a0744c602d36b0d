"""Import all run layouts, so that they are registered.

A folder has the first layout that fits it; layouts with markers come first.
"""

from __future__ import annotations

from ensembles.checkpoints.runs.layouts import (
    by_name,
    espnet,
    fairseq,
    huggingface,
    icefall,
    lightning,
    megatron,
    nemo,
    skorch,
    timm,
    wenet,
)
from ensembles.checkpoints.runs.layouts.table import LAYOUTS

__all__ = [
    "LAYOUTS",
    "by_name",
    "espnet",
    "fairseq",
    "huggingface",
    "icefall",
    "lightning",
    "megatron",
    "nemo",
    "skorch",
    "timm",
    "wenet",
]
