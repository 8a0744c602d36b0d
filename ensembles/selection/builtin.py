"""All built-in selections; importing this module fills the table `SELECTIONS`."""

from __future__ import annotations

from ensembles.selection.black_box import optuna
from ensembles.selection.forward_selection import greedy, greedy_soup
from ensembles.selection.gradient_ascent import convex
from ensembles.selection.interpolation import wise_ft
from ensembles.selection.ranking import best, top_k
from ensembles.selection.sweeps import listed, windows
from ensembles.selection.table import SELECTIONS, Record, Selection

__all__ = [
    "SELECTIONS",
    "Record",
    "Selection",
    "best",
    "convex",
    "greedy",
    "greedy_soup",
    "listed",
    "optuna",
    "top_k",
    "windows",
    "wise_ft",
]
