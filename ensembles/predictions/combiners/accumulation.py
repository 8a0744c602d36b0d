"""Predictions of members, met one after the other, in a running sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.parallel import cut

Members = Iterable[Float64]
# What is seen of rows of a member, given as they came, and the member's place.
View = Callable[[Float64, int], Float64]

BLOCK = 1 << 16  # numbers looked at together: what is made of them stays in the caches


def blocks(n_rows: int, width: int) -> Iterator[tuple[int, int]]:
    """First and last row of blocks of about `BLOCK` numbers, of a row at least.

    Parameters
    ----------
    n_rows : int
    width : int
        Numbers that belong to a row.

    Returns
    -------
    iterator of (start, stop)
    """
    return cut(n_rows, max(1, BLOCK // max(1, width)))


def checked(members: Members, n_weights: int) -> Iterator[Float64]:
    """Members one after the other, each let go before the next is asked for.

    Parameters
    ----------
    members : iterable of arrays of shape (n_rows, n_columns)
    n_weights : int

    Yields
    ------
    ndarray of shape (n_rows, n_columns)

    Raises
    ------
    ValueError
        If the members differ in shape, or are not as many as the weights.
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
    members: Members, weights: Float64, view: View | None = None
) -> Float64:
    """Sum of the weights times what is seen of each member.

    Members without weight do not count, whatever they hold.

    Parameters
    ----------
    members : iterable of n_members arrays of shape (n_rows, n_columns)
        Of any real dtype, gone through once.
    weights : ndarray of shape (n_members,)
    view : callable or None, default=None
        Told rows of a member, not to be written to, and the member's place; returns
        what is added in their stead. None adds the rows.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64

    Raises
    ------
    ValueError
        As `checked`.
    """
    total, place = np.empty((0, 0)), 0
    for member in checked(members, len(weights)):
        if place == 0:
            total = np.zeros(member.shape)
        if weights[place] != 0:
            _add(total, member, weights[place], place, view)
        del member
        place += 1  # noqa: SIM113  # enumerate would hold on to the member
    return total


def _add(
    total: Float64, member: Float64, weight: float, place: int, view: View | None
) -> None:
    for start, stop in blocks(*member.shape):
        part = member[start:stop]
        if view is not None:
            part = view(part, place)
        # Members may be of float32: the product is not.
        total[start:stop] += np.multiply(part, weight, dtype=np.float64)


def weighted_mean(
    members: Members, weights: Float64, view: View | None = None
) -> Float64:
    """That sum over the sum of the weights, divided once: whole numbers tie exactly.

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
    """Product of powers of probabilities, rows scaled to sum 1.

    Parameters
    ----------
    members, weights
        As in `weighted_sum`.
    floor : float between 0 and 1
        Smaller probabilities are raised to it.
    intercept : array of shape (n_columns,) or None, default=None
        Added to the logarithms of each column.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), float64

    Raises
    ------
    ValueError
        If the floor lies elsewhere, or a probability is negative or not finite.
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


def refuse_nan(part: Float64, place: int) -> None:
    """Raise if NaN is among numbers that are to be put in order.

    Parameters
    ----------
    part : ndarray
    place : int
        The member's, for the message.

    Raises
    ------
    ValueError
    """
    if np.isnan(part.min(initial=0)):
        raise ValueError(f"NaN has no rank: members[{place}] holds one")
