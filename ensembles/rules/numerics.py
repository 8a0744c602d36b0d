"""Means of sorted entries and of logarithms, element by element, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ensembles._typing import Float64

View = Callable[[Float64], Float64]

DEEPEST = 0.5 - 2.0**-20  # a deeper cut leaves little but rounding: the median
EXPONENTS = 4_200  # more than binary logarithms of two float64 numbers lie apart


def kept_between(ends: Float64, weights: Float64, proportion: float) -> Float64:
    """How much of each weight is left when as much is cut off at both ends.

    Parameters
    ----------
    ends : ndarray of shape (n_members, ...)
        Sums of the weights up to each member, in the order of the members' values.
    weights : ndarray of the same shape, positive
    proportion : float in [0, 0.5)
        Share of all weight that is cut off at each end.

    Returns
    -------
    ndarray of the same shape
        What is no more than rounding is 0; something is always left.

    Examples
    --------
    >>> kept_between(np.array([1.0, 2, 3, 4]), np.ones(4), 0.375)
    array([0. , 0.5, 0.5, 0. ])
    """
    whole = ends[-1]
    below = min(proportion, DEEPEST) * whole
    kept = np.minimum(ends, whole - below) - np.maximum(ends - weights, below)
    return np.where(kept > len(ends) * np.finfo(np.float64).eps * whole, kept, 0.0)


def trimmed(stack: Float64, weights: Float64, proportion: float) -> Float64:
    """Weighted mean of what lies between the cuts, of any weights.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size)
    weights : ndarray of shape (n_members,), positive, in ascending order
        Members of equal value come in the order of their weights, so that the result
        does not depend on which of them came first.
    proportion : float in [0, 0.5)

    Returns
    -------
    ndarray of shape (size,)
        NaN where a member is NaN.
    """
    order = np.argsort(stack, axis=0, kind="stable")
    given = weights[order]
    kept = kept_between(np.cumsum(given, axis=0), given, proportion)
    total, whole = np.zeros((2, stack.shape[1]))
    # One member after the other: a sum over an axis may add in pairs.
    for values, left in zip(np.take_along_axis(stack, order, 0), kept, strict=True):
        total += np.where(left > 0, left * values, 0.0)
        whole += left
    return np.where(np.isnan(stack).any(0), np.nan, total / whole)


def by_logarithms(
    stack: Float64, weights: Float64, anchor: Float64, *, up: View, down: View
) -> Float64:
    """Weighted mean of a function of the logarithms, taken back by its inverse.

    Logarithms are binary and counted from an anchor's. Mantissas and exponents are
    kept apart, so nothing is too large or too small on the way, and what equals the
    anchor has the logarithm 0 exactly.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), non-negative
    weights : ndarray of shape (n_members,), positive
    anchor : ndarray of shape (size,)
        The largest or the smallest entry; where it is zero, infinite or NaN, so is the
        result, and a zero has no sign.
    up, down : callable
        The function of arrays of shape (size,), and its inverse.

    Returns
    -------
    ndarray of shape (size,)
    """
    base, power = np.frexp(anchor)
    total = np.zeros(anchor.shape)
    for row, weight in zip(stack, weights, strict=True):
        part, exponent = np.frexp(row)
        total += weight * up(np.log2(part / base) + (exponent - power))
    log = down(total / math.fsum(weights))
    steps = np.rint(np.clip(log, -EXPONENTS, EXPONENTS))
    found = np.ldexp(base * np.exp2(log - steps), power + steps.astype(np.int32))
    # Of zeros of both signs the anchor is whichever came first.
    return np.where((anchor > 0) & (anchor < np.inf), found, np.abs(anchor))


def powers(p: float) -> tuple[View, View]:
    """What takes a binary logarithm to the p-th power, and the mean of those back.

    Parameters
    ----------
    p : float, finite, not 0

    Returns
    -------
    up, down : callable
        For a ``p`` near 0 powers lie near 1, and 1 is taken off, so that what they
        differ by is kept.
    """
    if abs(p) >= 0.5:
        return lambda log: np.exp2(p * log), lambda mean: np.log2(mean) / p
    rate = p * math.log(2)
    return lambda log: np.expm1(rate * log), lambda mean: np.log1p(mean) / rate
