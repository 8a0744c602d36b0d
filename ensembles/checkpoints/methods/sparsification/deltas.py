"""Weighted sums of differences from the base that are already in float64."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64


def add_deltas(
    base: Float64,
    deltas: Float64,
    weights: Float64,
    *,
    scale: float = 1.0,
    divisor: float = 1.0,
) -> Float64:
    """Base plus a weighted sum, base + scale * sum(w[i] d[i]) / divisor.

    Parameters
    ----------
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    deltas : ndarray of shape (n_members, size), float64
        Differences from the base; they may be modified.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign; members of weight 0 are ignored.
    scale : float, default=1.0
        Factor of the sum.
    divisor : float, not 0, default=1.0
        Divisor of the sum.

    Returns
    -------
    ndarray of shape (size,)
    """
    total = np.zeros(base.shape)
    # One after the other: a sum over an axis may add in pairs.
    for row, weight in zip(deltas, weights.tolist(), strict=True):
        if weight:
            total += row if weight == 1 else np.multiply(row, weight, out=row)
    total *= scale
    total /= divisor
    total += base
    return total
