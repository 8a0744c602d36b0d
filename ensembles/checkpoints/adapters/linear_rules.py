"""Coefficients of updates in rules that are weighted sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.methods.checks import check_number, weight_divisor

LINEAR = ("mean", "task_arithmetic")


def coefficients(
    rule: str, weights: ArrayLike | None, n_members: int, params: Mapping[str, Any]
) -> tuple[Float64, Float64]:
    """Weights of adapters, and the coefficients of their updates in a weighted sum.

    Parameters
    ----------
    rule : {"mean", "task_arithmetic"}
        "mean" divides by the sum of the weights; "task_arithmetic" does not, and
        multiplies with ``scale``: the update of an adapter is its task vector.
    weights : array-like of shape (n_members,) or None
        Weight of each adapter, of any sign; None gives all the weight 1.
    n_members : int
        Number of adapters.
    params : mapping of str to value
        Parameters of the rule: ``scale`` and ``normalize`` of "task_arithmetic".

    Returns
    -------
    weights : ndarray of shape (n_members,)
        Validated weights, not normalized.
    coefficients : ndarray of shape (n_members,)
        Factor of each update.

    Raises
    ------
    ValueError
        If the rule is not linear, a parameter is unknown or not valid, or the weights
        of a mean sum to 0.
    """
    if rule not in LINEAR:
        raise ValueError(
            f"adapters are merged by the rules {' and '.join(LINEAR)}, found {rule!r}; "
            "for other rules pass base=PATH (--base PATH), to which each adapter is "
            "applied first"
        )
    RULES[rule].check(n_members, params, has_base=RULES[rule].needs_base)
    checked = RULES[rule].check_weights(weights, n_members)
    scale = params.get("scale", 1.0)
    check_number(rule, "scale", scale)
    is_mean = rule == "mean" or bool(params.get("normalize"))
    return checked, scale * (checked / weight_divisor(rule, checked, is_mean))
