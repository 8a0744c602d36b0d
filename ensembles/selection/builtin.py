"""All selections: importing them fills the table."""

from __future__ import annotations

from ensembles.selection.black_box import optuna
from ensembles.selection.convex import convex
from ensembles.selection.greedy import greedy, greedy_soup
from ensembles.selection.table import SELECTIONS, Record, Selection
from ensembles.selection.top_k import best, top_k
from ensembles.selection.wise_ft import wise_ft

__all__ = [
    "SELECTIONS",
    "Record",
    "Selection",
    "best",
    "convex",
    "greedy",
    "greedy_soup",
    "optuna",
    "top_k",
    "wise_ft",
]
