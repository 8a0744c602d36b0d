"""Coefficients of updates in rules that are weighted sums, and parameters of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.adapters.core_space import check_core_rule
from ensembles.checkpoints.methods.checks import check_number, weight_divisor
from ensembles.checkpoints.planning.foreign_rules import resolve_rule

LINEAR = ("mean", "linear_combination", "task_arithmetic")


class RuleOfUpdates(NamedTuple):
    """A rule for the updates of adapters, which are task vectors of a base of zeros.

    Parameters
    ----------
    name : str
        Name of the rule.
    params : dict
        Parameters of the rule, by name.
    weights : ndarray of shape (n_members,)
        Validated weights, not normalized.
    coefficients : ndarray of shape (n_members,)
        Factor of each update: in the sum of a linear rule, 1 before another rule.
    """

    name: str
    params: dict[str, Any]
    weights: Float64
    coefficients: Float64

    @property
    def is_linear(self) -> bool:
        """Whether the rule is a weighted sum."""
        return self.name in LINEAR


def rule_of_updates(
    name: str, weights: ArrayLike | None, n_members: int, params: Mapping[str, Any]
) -> RuleOfUpdates:
    """Check a rule for adapters, its weights and its parameters.

    Parameters
    ----------
    name : str
        Name of a rule. "mean" divides by the sum of the weights; "linear_combination"
        and "task_arithmetic" do not, and multiply with ``scale``. Other rules merge
        updates in core space.
    weights : array-like of shape (n_members,) or None
        Weight of each adapter; None gives all the weight 1.
    n_members : int
        Number of adapters.
    params : mapping of str to value
        Parameters of the rule, by name.

    Returns
    -------
    RuleOfUpdates

    Raises
    ------
    ValueError
        If the rule or a parameter is unknown or not valid for adapters, or the weights
        of a mean sum to 0.
    """
    rule = resolve_rule(name)
    rule.check(n_members, params, has_base=rule.needs_base)
    checked = rule.check_weights(weights, n_members)
    if name not in LINEAR:
        own = check_core_rule(name, params)
        rule.try_out(checked, own, has_base=rule.needs_base)
        return RuleOfUpdates(name, own, checked, np.ones(n_members))
    scale = params.get("scale", 1.0)
    check_number(name, "scale", scale)
    is_mean = name == "mean" or params.get("normalize", False)
    factors = scale * (checked / weight_divisor(name, checked, is_mean))
    return RuleOfUpdates(name, dict(params), checked, factors)
