# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loop over units, for linear pools with linear interpolation."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled


@compiled
def _mixture_probability(x, stack, shares, unit, levels, right):
    """Distribution function of the mixture of a unit, or its limit from the left."""
    total = 0.0
    n_levels = levels.size
    for m in range(shares.shape[0]):
        if shares[m, unit] == 0:
            continue
        low, high = 0, n_levels  # bisection for the number of quantiles below x
        while low < high:
            middle = (low + high) // 2
            value = stack[m, unit, middle]
            if value < x or (right and value == x):
                low = middle + 1
            else:
                high = middle
        if low == 0:
            continue
        probability = 1.0
        if low < n_levels:
            start = stack[m, unit, low - 1]
            position = (x - start) / (stack[m, unit, low] - start)
            step = levels[low] - levels[low - 1]
            probability = levels[low - 1] + position * step
        total += shares[m, unit] * probability
    return total


@compiled
def mixture_quantiles(stack, shares, levels, slack, out):
    """Quantiles of the mixtures of all units.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_units, n_levels), float64
        Quantiles of the members in ascending order.
    shares : ndarray of shape (n_members, n_units), float64
        Weights of the members, with sum 1; 0 for members that are left out.
    levels : ndarray of shape (n_levels,), float64
        Quantile levels.
    slack : float
        Cumulative probabilities that differ by less are equal.
    out : ndarray of shape (n_units, n_levels), float64
        Output: quantiles of the mixtures.
    """
    n_members, n_units, n_levels = stack.shape
    knots = np.empty(n_members * n_levels)
    for unit in range(n_units):
        size = 0
        for m in range(n_members):
            if shares[m, unit] != 0:
                knots[size : size + n_levels] = stack[m, unit]
                size += n_levels
        knots[:size].sort()
        first = 0
        for k in range(n_levels):
            level = levels[k]
            # The first knot at which the mixture reaches the level.
            last = size - 1
            while first < last:
                middle = (first + last) // 2
                x = knots[middle]
                if _mixture_probability(x, stack, shares, unit, levels, True) < (
                    level - slack
                ):
                    first = middle + 1
                else:
                    last = middle
            right = knots[first]
            left = knots[max(first - 1, 0)]
            above = (
                _mixture_probability(right, stack, shares, unit, levels, False) - level
            )
            below = (
                _mixture_probability(left, stack, shares, unit, levels, True) - level
            )
            out[unit, k] = right
            if above > slack:  # otherwise it is reached by a jump
                share = -below / (above - below)
                out[unit, k] = left + share * (right - left)
