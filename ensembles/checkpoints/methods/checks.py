"""Checks of parameters that several merge methods have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from ensembles._typing import Float64


def check_number(
    rule: str, name: str, value: Any, *, low: float = -math.inf, high: float = math.inf
) -> None:
    """Raise if a parameter is not a finite number in a range.

    Parameters
    ----------
    rule : str
        Name of the rule, for the message.
    name : str
        Name of the parameter.
    value : object
        Its value.
    low, high : float, default=-inf, inf
        Smallest and largest allowed value.

    Raises
    ------
    ValueError
        If the value is not allowed.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and low <= value <= high:
        return
    limits = [f"at least {low:g}"] * (low > -math.inf)
    limits += [f"at most {high:g}"] * (high < math.inf)
    expected = ", ".join(["a finite number", *[" and ".join(limits)] * bool(limits)])
    raise ValueError(f"{name} of {rule!r} must be {expected}, found {value!r}")


def check_choice(rule: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise if a parameter is not one of several values.

    Parameters
    ----------
    rule : str
        Name of the rule, for the message.
    name : str
        Name of the parameter.
    value : object
        Its value.
    choices : sequence
        Allowed values.

    Raises
    ------
    ValueError
        If the value is not allowed.
    """
    if not any(value is choice or value == choice for choice in choices):
        expected = ", ".join(map(repr, choices))
        raise ValueError(
            f"{name} of {rule!r} must be one of {expected}, found {value!r}"
        )


def weight_divisor(rule: str, weights: Float64, normalize: Any) -> float:
    """Sum of the weights if they are normalized, else 1.

    Parameters
    ----------
    rule : str
        Name of the rule, for messages.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    normalize : bool
        Whether weights are divided by their sum.

    Returns
    -------
    float, not 0

    Raises
    ------
    ValueError
        If ``normalize`` is not a bool, or is True and the weights sum to zero, up to
        their rounding error.
    """
    check_choice(rule, "normalize", normalize, (True, False))
    total = math.fsum(weights) if normalize else 1.0
    # As in `check_weights`: the remainder of a sum that cancels is rounding error.
    slack = len(weights) * np.finfo(np.float64).eps * math.fsum(np.abs(weights))
    if normalize and abs(total) <= slack:
        raise ValueError(
            f"weights of {rule!r} must not sum to zero with normalize=True, found "
            f"{weights.tolist()}; pass normalize=False (--param normalize=false)"
        )
    return total
