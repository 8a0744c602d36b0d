"""All selections: importing them fills the table."""

from __future__ import annotations

from ensembles.selection.adding import greedy, greedy_soup
from ensembles.selection.climbing import convex
from ensembles.selection.picking import best, top_k, wise_ft
from ensembles.selection.registering import SELECTIONS, Record, Selection
from ensembles.selection.sampling import optuna

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
