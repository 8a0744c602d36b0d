"""All built-in formats; importing this module fills the table `FORMATS`."""

from __future__ import annotations

from ensembles.checkpoints.formats.gguf import gguf
from ensembles.checkpoints.formats.nemo import nemo
from ensembles.checkpoints.formats.npz import npz
from ensembles.checkpoints.formats.pytorch import pytorch
from ensembles.checkpoints.formats.safetensors import safetensors
from ensembles.checkpoints.formats.table import FORMATS, Format

__all__ = ["FORMATS", "Format", "gguf", "nemo", "npz", "pytorch", "safetensors"]
