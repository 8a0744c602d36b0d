"""All built-in rules; importing this module fills the table `RULES`."""

from __future__ import annotations

from ensembles.rules.arcs import nuslerp
from ensembles.rules.distances import geometric_median
from ensembles.rules.elementwise import (
    geometric_mean,
    linear_combination,
    maximum,
    mean,
    median,
    minimum,
    nearswap,
    power_mean,
    trimmed_mean,
)
from ensembles.rules.fusion import arcee_fusion
from ensembles.rules.rule import Rule
from ensembles.rules.spherical import karcher_mean, multislerp, slerp
from ensembles.rules.table import RULES

__all__ = [
    "RULES",
    "Rule",
    "arcee_fusion",
    "geometric_mean",
    "geometric_median",
    "karcher_mean",
    "linear_combination",
    "maximum",
    "mean",
    "median",
    "minimum",
    "multislerp",
    "nearswap",
    "nuslerp",
    "power_mean",
    "slerp",
    "trimmed_mean",
]
