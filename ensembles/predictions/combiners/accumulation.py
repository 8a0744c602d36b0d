"""Weighted sums of member predictions, accumulated one member at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.parallel import cut

Members = Iterable[Float64]
# (rows of a member, index of the member) -> the rows to add instead.
Transform = Callable[[Float64, int], Float64]

BLOCK = 1 << 16  # elements per block: temporary arrays of this size fit in the caches


def blocks(n_rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Start and stop rows of blocks of about `BLOCK` elements, at least one row each.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    width : int
        Number of elements per row.

    Returns
    -------
    iterator of (start, stop)
    """
    return cut(n_rows, max(1, BLOCK // max(1, width)))


def checked(members: Members, n_weights: int) -> Iterator[Float64]:
    """Iterate over the members and check their shapes and their number.

    Each member is released before the next one is requested.

    Parameters
    ----------
    members : iterable of arrays of shape (n_rows, n_columns)
        Predictions of the members.
    n_weights : int
        Number of weights, which must equal the number of members.

    Yields
    ------
    ndarray of shape (n_rows, n_columns)
        The members, unchanged.

    Raises
    ------
    ValueError
        If the members differ in shape, or if their number is 0 or not ``n_weights``.
    """
    shape, place = None, 0
    for member in members:
        if place == n_weights:
            raise ValueError(
                f"there must be a weight for each member: found {n_weights} weights "
                "and more members"
            )
        shape = shape or member.shape
        if member.shape != shape or member.ndim != 2:
            raise ValueError(
                "members must have one shape, (n_rows, n_columns): members[0] has "
                f"{shape}, members[{place}] has {member.shape}"
            )
        yield member
        del member
        place += 1
    if place < max(n_weights, 1):
        raise ValueError(
            "there must be a member for each weight, and at least one: found "
            f"{place} members for {n_weights} weights"
        )


def weighted_sum(
    members: Members, weights: Float64, view: Transform | None = None
) -> Float64:
    """Weighted sum of the members, or of a function of their rows.

    Members with weight 0 are skipped, even if they contain NaN.

    Parameters
    ----------
    members : iterable of n_members arrays of shape (n_rows, n_columns)
        Predictions of the members, of any real dtype; iterated once.
    weights : ndarray of shape (n_members,)
        Weights of the members.
    view : callable or None, default=None
        ``(rows, index) -> array``: gets rows of a member, which it must not modify, and
        the member's index, and returns the array to add instead. None adds the rows.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64

    Raises
    ------
    ValueError
        As in `checked`.
    """
    total, place = np.empty((0, 0)), 0
    for member in checked(members, len(weights)):
        if place == 0:
            total = np.zeros(member.shape)
        if weights[place] != 0:
            _add(total, member, weights[place], place, view)
        del member
        place += 1  # noqa: SIM113  # enumerate would keep the member in memory
    return total


def _add(
    total: Float64, member: Float64, weight: float, place: int, view: Transform | None
) -> None:
    for start, stop in blocks(*member.shape):
        part = member[start:stop]
        if view is not None:
            part = view(part, place)
        # The product is float64 even if the member is float32.
        total[start:stop] += np.multiply(part, weight, dtype=np.float64)


def weighted_mean(
    members: Members, weights: Float64, view: Transform | None = None
) -> Float64:
    """Weighted mean of the members: `weighted_sum` over the sum of the weights.

    With integer weights and entries the sums are exact, and so are ties, because the
    division is done once, at the end.

    Parameters
    ----------
    members, weights, view
        As in `weighted_sum`.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64
    """
    total = weighted_sum(members, weights, view)
    total /= math.fsum(weights)
    return total


def pooled(
    members: Members, weights: Float64, floor: float, intercept: ArrayLike | None = None
) -> Float64:
    """Log-linear pool: product of powers of probabilities, rows scaled to sum 1.

    Parameters
    ----------
    members, weights
        As in `weighted_sum`.
    floor : float between 0 and 1
        Lower bound of the probabilities; smaller ones are raised to it.
    intercept : array of shape (n_columns,) or None, default=None
        Added to the logarithm of each column; None adds nothing.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64

    Raises
    ------
    ValueError
        If ``floor`` is not between 0 and 1, or a probability is negative or infinite;
        NaN gives NaN.
    """
    if not 0 < floor < 1:
        raise ValueError(f"floor must lie between 0 and 1, found {floor!r}")

    def logarithms(part: Float64, place: int) -> Float64:
        least, most = part.min(initial=0), part.max(initial=0)
        if least < 0 or most == math.inf:  # NaN passes, and the result is NaN
            raise ValueError(
                "probabilities must be finite and not negative: "
                f"members[{place}] has {least if least < 0 else most}"
            )
        raised = np.maximum(part, floor, dtype=np.float64)
        return np.log(raised, out=raised)

    product = weighted_sum(members, weights, logarithms)
    if intercept is not None:
        product += np.asarray(intercept, np.float64)
    for start, stop in blocks(*product.shape):
        rows = product[start:stop]
        rows -= rows.max(axis=1, keepdims=True)
        np.exp(rows, out=rows)
        rows /= rows.sum(axis=1, keepdims=True)
    return product


def check_no_nan(part: Float64, place: int) -> None:
    """Raise if an array that will be ranked or sorted contains NaN.

    Parameters
    ----------
    part : ndarray
        Predictions of a member.
    place : int
        Index of the member, for the message.

    Raises
    ------
    ValueError
        If ``part`` contains NaN.
    """
    if np.isnan(part.min(initial=0)):
        raise ValueError(f"NaN has no rank: members[{place}] holds one")
