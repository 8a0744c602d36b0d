"""All merge methods; importing this module adds them to the table `RULES`."""

from __future__ import annotations

from ensembles.checkpoints.methods.arithmetic import task_arithmetic
from ensembles.checkpoints.methods.dare import dare_linear, dare_ties
from ensembles.checkpoints.methods.della import della_linear, della_ties
from ensembles.checkpoints.methods.overlaps import ram
from ensembles.checkpoints.methods.second_moments import fisher, regmean
from ensembles.checkpoints.methods.stock import model_stock
from ensembles.rules.builtin import RULES

__all__ = [
    "RULES",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della_ties",
    "fisher",
    "model_stock",
    "ram",
    "regmean",
    "task_arithmetic",
]
