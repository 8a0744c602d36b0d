"""mergekit's merge methods, in terms of the rules and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """A merge method of mergekit.

    Parameters
    ----------
    rule : str
        Rule that computes it.
    params : dict of str to str
        Names of mergekit's parameters, to those of the rule.
    fixed : dict of str to value
        Parameters of the rule that mergekit's formula fixes.
    defaults : dict of str to value
        mergekit's defaults where they differ from those of the rule, by mergekit's
        names.
    per_model : tuple of str
        Parameters with one value for each model; ``weight`` is the weight of the
        member.
    """

    rule: str
    params: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    per_model: tuple[str, ...] = ("weight",)


METHODS = {
    "linear": Method("mean"),
    "task_arithmetic": Method(
        "task_arithmetic", {"lambda": "scale", "normalize": "normalize"}
    ),
    "ties": Method(
        "ties",
        {"density": "density", "lambda": "scale", "normalize": "normalize"},
        fixed={"scope": "tensor", "zero_sum": "positive"},
        defaults={"normalize": True},
        per_model=("weight", "density"),
    ),
}
