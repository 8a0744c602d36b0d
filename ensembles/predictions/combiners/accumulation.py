"""Weighted sums of member predictions, accumulated one member at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64

Members = Iterable[Float64]
# (rows of a member, index of the member) -> the rows to add instead.
Transform = Callable[[Float64, int], Float64]

BLOCK = 1 << 16  # elements per block: temporary arrays of this size fit in the caches


def row_blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Slices of rows of about 65,536 elements (``BLOCK``), at least one row each.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    width : int
        Number of elements per row.

    Returns
    -------
    iterator of slice
    """
    step = max(1, BLOCK // max(1, width))
    return map(slice, range(0, n_rows, step), range(step, n_rows + step, step))


def check_member(
    member: Any, shape: tuple[int, ...], index: int, n_weights: int
) -> None:
    """Raise unless a member has a weight, and the shape of the first member.

    Parameters
    ----------
    member : array
        Predictions of the member.
    shape : tuple of int
        Shape of the first member.
    index : int
        Number of members before this one.
    n_weights : int
        Number of weights.

    Raises
    ------
    ValueError
    """
    if index == n_weights:
        raise ValueError(
            f"members must have one weight each: found {n_weights} weights for more "
            "members"
        )
    if member.shape != shape or member.ndim != 2:
        raise ValueError(
            "members must have one shape, (n_rows, n_columns): members[0] has "
            f"{shape}, members[{index}] has {member.shape}"
        )


def check_n_members(n_members: int, n_weights: int) -> None:
    """Raise unless there is at least one member, and one for each weight.

    Parameters
    ----------
    n_members, n_weights : int
        Number of members, and of weights.

    Raises
    ------
    ValueError
    """
    if n_members < max(n_weights, 1):
        raise ValueError(
            "weights must have one member each, and at least one: found "
            f"{n_members} members for {n_weights} weights"
        )


def weighted_sum(
    members: Members, weights: Float64, transform: Transform | None = None
) -> Float64:
    """Weighted sum of the members, or of a function of their rows.

    Members with weight 0 are skipped, even if they contain NaN.

    Parameters
    ----------
    members : iterable of n_members arrays of shape (n_rows, n_columns)
        Predictions of the members, of any real dtype; iterated once. Each is released
        before the next one is requested.
    weights : ndarray of shape (n_members,)
        Weights of the members.
    transform : callable or None, default=None
        ``(rows, index) -> array``: gets rows of a member, which it must not modify, and
        the member's index, and returns the array to add instead. None adds the rows.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64

    Raises
    ------
    ValueError
        If the members differ in shape, or if their number is 0 or not that of the
        weights.
    """
    total, index = np.empty((0, 0)), 0
    for member in members:
        if index == 0:
            total = np.zeros(member.shape)
        check_member(member, total.shape, index, len(weights))
        if weights[index] != 0:
            for block in row_blocks(*member.shape):
                rows = member[block]
                if transform is not None:
                    rows = transform(rows, index)
                # The product is float64 even if the member is float32.
                total[block] += np.multiply(rows, weights[index], dtype=np.float64)
                del rows
        del member
        index += 1  # enumerate would keep the member in memory
    check_n_members(index, len(weights))
    return total


def weighted_mean(
    members: Members, weights: Float64, transform: Transform | None = None
) -> Float64:
    """Weighted mean of the members: `weighted_sum` over the sum of the weights.

    With integer weights and entries the sums are exact, and so are ties, because the
    division is done once, at the end.

    Parameters
    ----------
    members, weights, transform
        As in `weighted_sum`.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64
    """
    total = weighted_sum(members, weights, transform)
    total /= math.fsum(weights)
    return total


def clipped_logarithm(floor: float) -> Transform:
    """Transform for `weighted_sum` that takes logarithms of probabilities.

    Parameters
    ----------
    floor : float between 0 and 1
        Lower bound of the probabilities; smaller ones are raised to it.

    Returns
    -------
    callable
        Raises ValueError for a negative or infinite probability; NaN gives NaN.

    Raises
    ------
    ValueError
        If ``floor`` is not between 0 and 1.
    """
    if not 0 < floor < 1:
        raise ValueError(f"floor must lie between 0 and 1, found {floor!r}")

    def logarithm(rows: Float64, index: int) -> Float64:
        smallest, largest = rows.min(initial=0), rows.max(initial=0)
        if smallest < 0 or largest == math.inf:  # NaN passes, and the result is NaN
            raise ValueError(
                "probabilities must be finite and non-negative: "
                f"members[{index}] has {smallest if smallest < 0 else largest}"
            )
        clipped = np.maximum(rows, floor, dtype=np.float64)
        return np.log(clipped, out=clipped)

    return logarithm


def softmax(logits: Float64, intercept: ArrayLike | None = None) -> Float64:
    """Exponentials of the rows, scaled to sum 1, in place.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_columns), float64
        Overwritten by the result.
    intercept : array of shape (n_columns,) or None, default=None
        Added to each row first; None adds nothing.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64
        ``logits`` itself.
    """
    if intercept is not None:
        logits += np.asarray(intercept, np.float64)
    for block in row_blocks(*logits.shape):
        rows = logits[block]
        rows -= rows.max(axis=1, keepdims=True)
        np.exp(rows, out=rows)
        rows /= rows.sum(axis=1, keepdims=True)
    return logits


def check_no_nan(rows: Float64, index: int) -> None:
    """Raise if an array that will be ranked or sorted contains NaN.

    Parameters
    ----------
    rows : ndarray
        Predictions of a member.
    index : int
        Index of the member, for the message.

    Raises
    ------
    ValueError
        If ``rows`` contains NaN.
    """
    if np.isnan(rows.min(initial=0)):
        raise ValueError(
            f"predictions must not be NaN to be ranked: members[{index}] contains NaN"
        )
