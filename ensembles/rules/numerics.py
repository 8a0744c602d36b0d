"""Elementwise trimmed means and power means in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ensembles._typing import Float64

Transform = Callable[[Float64], Float64]

DEEPEST = 0.5 - 2.0**-20  # deeper cuts leave mostly rounding error; nearly the median
EXPONENTS = 4_200  # exceeds any difference of binary logarithms of float64 numbers


def trimmed_weights(ends: Float64, weights: Float64, proportion: float) -> Float64:
    """Remaining weight of each member after trimming both ends.

    Parameters
    ----------
    ends : ndarray of shape (n_members, ...)
        Cumulative weights of the members, sorted by value.
    weights : ndarray of the same shape, positive
        Weights in the same order.
    proportion : float in [0, 0.5)
        Share of the total weight to trim at each end.

    Returns
    -------
    ndarray of the same shape
        Amounts within rounding error are set to 0; at least one weight is positive.

    Examples
    --------
    >>> trimmed_weights(np.array([1.0, 2, 3, 4]), np.ones(4), 0.375)
    array([0. , 0.5, 0.5, 0. ])
    """
    total = ends[-1]
    cut = min(proportion, DEEPEST) * total
    kept = np.minimum(ends, total - cut) - np.maximum(ends - weights, cut)
    return np.where(kept > len(ends) * np.finfo(np.float64).eps * total, kept, 0.0)


def sorted_trimmed_mean(stack: Float64, weights: Float64, proportion: float) -> Float64:
    """Weighted trimmed mean of each column, for unequal weights.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size)
        Members along axis 0, in the order of ``weights``.
    weights : ndarray of shape (n_members,), positive, in ascending order
        Their order breaks ties between equal values, so that the result does not depend
        on the original order of the members. With shape (n_members, size), the weights
        of single entries, in any order; 0 for entries that are infinite only.
    proportion : float in [0, 0.5)
        Share of the total weight to trim at each end.

    Returns
    -------
    ndarray of shape (size,)
        NaN where a member is NaN.
    """
    order = np.argsort(stack, axis=0, kind="stable")
    entries = np.broadcast_to(weights.reshape(len(weights), -1), stack.shape)
    sorted_weights = np.take_along_axis(entries, order, axis=0)
    ends = np.cumsum(sorted_weights, axis=0)
    kept = trimmed_weights(ends, sorted_weights, proportion)
    total, weight_sum = np.zeros((2, stack.shape[1]))
    # Member after member: a sum over an axis may add pairwise.
    for values, weight in zip(np.take_along_axis(stack, order, 0), kept, strict=True):
        total += weight * np.where(weight > 0, values, 0.0)
        weight_sum += weight
    return np.where(np.isnan(stack).any(0), np.nan, total / weight_sum)


def log_domain_mean(
    stack: Float64, weights: Float64, anchor: Float64, *, up: Transform, down: Transform
) -> Float64:
    """Quasi-arithmetic mean of each column, in logarithms relative to an anchor.

    Computes ``anchor * 2**down(mean(up(log2(x / anchor))))`` with the weighted mean.
    Mantissas and exponents are handled separately, so that nothing overflows or
    underflows, and an entry equal to the anchor has the logarithm 0 exactly.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), non-negative
        Members along axis 0.
    weights : ndarray of shape (n_members,), positive
        Weight of each member.
    anchor : ndarray of shape (size,)
        Largest or smallest entry of each column. If it is zero, infinite or NaN, so is
        the result; a zero result is +0.
    up, down : callable
        Function of a logarithm, on arrays of shape (size,), and its inverse.

    Returns
    -------
    ndarray of shape (size,)
    """
    anchor_mantissa, anchor_exponent = np.frexp(anchor)
    total = np.zeros(anchor.shape)
    for row, weight in zip(stack, weights, strict=True):
        mantissa, exponent = np.frexp(row)
        log = np.log2(mantissa / anchor_mantissa) + (exponent - anchor_exponent)
        total += weight * up(log)
    log = down(total / math.fsum(weights))
    steps = np.rint(np.clip(log, -EXPONENTS, EXPONENTS))
    means = np.ldexp(
        anchor_mantissa * np.exp2(log - steps),
        anchor_exponent + steps.astype(np.int32),
    )
    # The sign of a zero anchor depends on the order of the members.
    return np.where((anchor > 0) & (anchor < np.inf), means, np.abs(anchor))


def power_transforms(p: float) -> tuple[Transform, Transform]:
    """Functions ``up`` and ``down`` of `log_domain_mean` for the power mean.

    Parameters
    ----------
    p : float, finite, not 0
        Exponent of the power mean.

    Returns
    -------
    up, down : callable
        From a binary logarithm to the p-th power, and back from a mean of powers. For
        ``p`` near 0 they use the power minus 1, because powers near 1 lose digits.
    """
    if abs(p) >= 0.5:
        return lambda log: np.exp2(p * log), lambda mean: np.log2(mean) / p
    rate = p * math.log(2)
    return lambda log: np.expm1(rate * log), lambda mean: np.log1p(mean) / rate
