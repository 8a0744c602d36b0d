"""All built-in rules; importing this module fills the table `RULES`."""

from __future__ import annotations

from ensembles.rules.elementwise import (
    geometric_mean,
    maximum,
    mean,
    median,
    minimum,
    power_mean,
    trimmed_mean,
)
from ensembles.rules.rule import Rule
from ensembles.rules.spherical import karcher_mean, slerp
from ensembles.rules.table import RULES

__all__ = [
    "RULES",
    "Rule",
    "geometric_mean",
    "karcher_mean",
    "maximum",
    "mean",
    "median",
    "minimum",
    "power_mean",
    "slerp",
    "trimmed_mean",
]
