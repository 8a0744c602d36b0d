"""Validation and scaling of member weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64

MODERATE = 64  # largest binary exponent of weights that are used unscaled


def check_weights(
    weights: ArrayLike | None,
    n_members: int,
    *,
    signed: bool = False,
    weight_sum_matters: bool = False,
    rule: str | None = None,
) -> Float64:
    """Validate member weights and return them as float64, not normalized.

    A mean divides by the sum of the weights once, at its end, which keeps equal
    weights exact.

    Parameters
    ----------
    weights : array-like of shape (n_members,) or None
        Weight of each member. None gives every member the weight 1.
    n_members : int, at least 1
        Number of members.
    signed : bool, default=False
        Whether negative weights are allowed.
    weight_sum_matters : bool, default=False
        Whether the result depends on the sum of the weights. If so, the sum may be
        zero, as in the difference of two task vectors; otherwise the result is divided
        by the sum, which must not be zero.
    rule : str or None, default=None
        Name of the rule that takes the weights, for the messages; None names none.

    Returns
    -------
    ndarray of shape (n_members,), float64, a copy

    Raises
    ------
    TypeError
        If the weights are not real numbers.
    ValueError
        If there are no members, the number of weights is not ``n_members``, a weight
        is not finite, a weight is negative and not ``signed``, all weights are zero,
        their sum is too large for float64, or it is zero and not
        ``weight_sum_matters``. A sum of weights of both signs counts as zero if it is
        within their rounding error.

    Examples
    --------
    >>> check_weights(None, 3)
    array([1., 1., 1.])
    >>> check_weights([2, 1], 2)
    array([2., 1.])
    >>> check_weights([1, -1], 2, signed=True, weight_sum_matters=True)
    array([ 1., -1.])
    """
    if n_members < 1:
        raise ValueError(f"there must be at least one member, found {n_members}")
    if weights is None:
        return np.ones(n_members)
    owner = "weights" if rule is None else f"weights of {rule!r}"
    values = _as_numbers(weights, owner)
    _check_shape(values, n_members, owner)
    _check_entries(values, signed, owner)
    _check_sum(values, weight_sum_matters, owner)
    return values


def moderate(weights: Float64) -> Float64:
    """Weights scaled by a power of two, if they are very large or very small.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Weight of each member.

    Returns
    -------
    ndarray of shape (n_members,)
        Weights in exactly the same proportions, with the largest near 1, so that sums
        of products with them stay in the range of float64.
    """
    exponents = np.frexp(weights[weights != 0])[1]
    if not exponents.size or abs(top := int(exponents.max())) <= MODERATE:
        return weights
    # Scale less if the smallest weight would underflow to zero.
    least = int(exponents.min()) + 1_000
    return np.ldexp(weights, -(max(min(top, least), 0) if top > 0 else top))


def _as_numbers(weights: ArrayLike, owner: str) -> Float64:
    try:
        array = np.asarray(weights)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{owner} must be a flat list of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{owner} must be real numbers, found {weights!r}")
    return array.astype(np.float64)


def _check_shape(values: Float64, n_members: int, owner: str) -> None:
    if values.ndim != 1:
        raise ValueError(
            f"{owner} must be a flat list, one number for each of {n_members} members, "
            f"found shape {values.shape}"
        )
    if len(values) != n_members:
        raise ValueError(
            f"{owner} must be one number for each member: "
            f"found {len(values)} for {n_members} members"
        )


def _check_entries(values: Float64, signed: bool, owner: str) -> None:
    for index, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            raise ValueError(f"{owner} must be finite: weights[{index}] is {value}")
        if value < 0 and not signed:
            raise ValueError(
                f"{owner} must not be negative: weights[{index}] is {value}"
            )


def _check_sum(values: Float64, weight_sum_matters: bool, owner: str) -> None:
    try:
        total = math.fsum(values)
        magnitude = math.fsum(np.abs(values))
    except OverflowError:
        raise ValueError(
            f"{owner} must have a sum that float64 can hold; divide them all by "
            f"the largest, {np.abs(values).max()}"
        ) from None
    if weight_sum_matters and values.any():
        return
    # 0.1 + 0.2 - 0.3 is 3e-17: fsum adds exactly, so the remainder of a sum that
    # cancels is the rounding error of the weights themselves, a few ulps each.
    if abs(total) <= len(values) * np.finfo(np.float64).eps * magnitude:
        raise ValueError(f"{owner} must not sum to zero: found {values.tolist()}")
