"""Weights: how much each member counts, and what a score says of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
ROUNDING = 1e-9  # what gains may be off by, relative to the score, or to 1 if less


def check_weights(
    weights: ArrayLike | None,
    n_members: int,
    *,
    signed: bool = False,
    rule: str | None = None,
) -> Floats:
    """One finite number for each member, as given.

    Weights are never normalised: a mean divides by their sum once, at its end, so
    that equal weights are exact.

    Parameters
    ----------
    weights : array-like of shape (n_members,) or None
        None counts every member once.
    n_members : int, at least 1
    signed : bool, default=False
        Whether weights may be negative.
    rule : str or None, default=None
        Name of what the weights are for, told in the errors.

    Returns
    -------
    ndarray of shape (n_members,), float64, a copy

    Raises
    ------
    TypeError
        If the weights are not real numbers.
    ValueError
        If there is no member, the number of weights is not ``n_members``, one is not
        finite, one is negative and not ``signed``, or their sum is zero or too large
        for float64. A sum of numbers of both signs is zero where nothing but their
        rounding is left of it.

    Examples
    --------
    >>> check_weights(None, 3)
    array([1., 1., 1.])
    >>> check_weights([2, 1], 2)
    array([2., 1.])
    """
    if n_members < 1:
        raise ValueError(f"there must be at least one member, found {n_members}")
    if weights is None:
        return np.ones(n_members)
    owner = "weights" if rule is None else f"weights of {rule!r}"
    values = _as_numbers(weights, owner)
    _check_shape(values, n_members, owner)
    _check_entries(values, signed, owner)
    _check_sum(values, owner)
    return values


def _as_numbers(weights: ArrayLike, owner: str) -> Floats:
    try:
        found = np.asarray(weights)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{owner} must be a flat list of numbers: {error}") from None
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{owner} must be real numbers, found {weights!r}")
    return found.astype(np.float64)


def _check_shape(values: Floats, n_members: int, owner: str) -> None:
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


def _check_entries(values: Floats, signed: bool, owner: str) -> None:
    for index, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            raise ValueError(f"{owner} must be finite: weights[{index}] is {value}")
        if value < 0 and not signed:
            raise ValueError(
                f"{owner} must not be negative: weights[{index}] is {value}"
            )


def _check_sum(values: Floats, owner: str) -> None:
    try:
        total = math.fsum(values)
        magnitude = math.fsum(np.abs(values))
    except OverflowError:
        raise ValueError(
            f"{owner} must have a sum that float64 can hold; divide them all by "
            f"the largest, {np.abs(values).max()}"
        ) from None
    # 0.1 + 0.2 - 0.3 is 3e-17: fsum adds exactly, so what is left of a sum that
    # cancels is the rounding of the weights themselves, some ulps of each.
    if abs(total) <= len(values) * np.finfo(np.float64).eps * magnitude:
        raise ValueError(f"{owner} must not sum to zero: found {values.tolist()}")


class Score(Protocol):
    """How good weights are; greater is better.

    Called with float64 weights of shape (n_members,) that sum to 1, from a selection
    never negative; a finite number comes back. A score may offer three methods more:

    - ``gains(counts, members)``: an array of the shape of ``members``, the scores of
      ``(counts + 1 for one member) / (counts.sum() + 1)`` for each of these members
      in turn. Counts of zero ask for each member's own score. Values may be off by
      `ROUNDING`; that must not change which of them is the greatest, nor, where
      counts are zero, the order of any, nor make or break ties. `greedy` lives on it.
    - ``gradient(weights)``: an array of shape (n_members,), up to a constant added to
      all entries (it has no effect where weights sum to 1). `convex` climbs by it.
    - ``optimum()``: weights at which the score is greatest, of shape (n_members,),
      non-negative, with sum 1. `convex` takes it instead of climbing.
    """

    def __call__(self, weights: Floats, /) -> float: ...


class Trial(NamedTuple):
    """Weights that were tried, of shape (n_members,), and their score."""

    weights: Floats
    score: float


def score_of(score: Score, weights: Floats) -> float:
    """Score of weights, known to be finite.

    Parameters
    ----------
    score : Score
    weights : ndarray of shape (n_members,), non-negative, sum 1

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the score is not finite; the message names the weights.
    """
    value = float(score(weights))
    if not math.isfinite(value):
        raise ValueError(f"score must be finite: {value} at {_named(weights)}")
    return value


def own_scores(n_members: int, score: Score) -> Floats:
    """Each member's score by itself.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score

    Returns
    -------
    ndarray of shape (n_members,)

    Raises
    ------
    ValueError
        If there is no member or a score is not finite.
    """
    if n_members < 1:
        raise ValueError(f"there must be at least one member, found {n_members}")
    return gains_of(score, np.zeros(n_members, np.int64), np.arange(n_members))


def gains_of(score: Score, counts: Counts, members: Counts) -> Floats:
    """Scores after adding each of some members once more.

    Parameters
    ----------
    score : Score
        ``score.gains`` is used where offered.
    counts : ndarray of shape (n_members,), int64
        How often each member was added before.
    members : ndarray of indices

    Returns
    -------
    ndarray of the shape of ``members``

    Raises
    ------
    ValueError
        If a score is not finite, or ``score.gains`` has not one for each of them.
    """
    size = counts.sum() + 1
    offered = getattr(score, "gains", None)
    if offered is None:
        one = np.eye(len(counts), dtype=np.int64)
        return np.array([score_of(score, (counts + one[m]) / size) for m in members])
    gains = np.asarray(offered(counts.copy(), members.copy()), np.float64)
    if gains.shape != members.shape:
        raise ValueError(
            f"score.gains must return one score for each of {len(members)} members, "
            f"found shape {gains.shape}"
        )
    for place in np.flatnonzero(~np.isfinite(gains)):
        where = _named((counts + (np.arange(len(counts)) == members[place])) / size)
        raise ValueError(f"score.gains must be finite: {gains[place]} at {where}")
    return gains


def gradient_of(score: Score, weights: Floats) -> Floats:
    """Slopes of a score, up to a constant.

    Parameters
    ----------
    score : Score
        ``score.gradient`` is used where offered, else differences towards each member
        alone.
    weights : ndarray of shape (n_members,), non-negative, sum 1

    Returns
    -------
    ndarray of shape (n_members,)

    Raises
    ------
    ValueError
        If a slope is not finite, or ``score.gradient`` has not one for each member.
    """
    offered = getattr(score, "gradient", None)
    if offered is None:
        # Weights that are scored stay on the simplex; a step along an axis would not.
        step = math.sqrt(np.finfo(np.float64).eps)
        here = score_of(score, weights)
        towards = (1 - step) * weights + step * np.eye(len(weights))
        return np.array([score_of(score, there) - here for there in towards]) / step
    gradient = np.asarray(offered(weights), np.float64)
    if gradient.shape != weights.shape or not np.isfinite(gradient).all():
        raise ValueError(
            f"score.gradient must return {len(weights)} finite numbers, found "
            f"{gradient} at weights {weights}"
        )
    return gradient


def optimum_of(score: Any, n_members: int) -> Floats:
    """Weights at which a score is greatest, as it says itself.

    Parameters
    ----------
    score : Score
        Offers ``optimum``.
    n_members : int

    Returns
    -------
    ndarray of shape (n_members,), non-negative, sum 1

    Raises
    ------
    ValueError
        If ``score.optimum`` has not one weight for each member, one is negative, or
        their sum is not 1.
    """
    weights = np.asarray(score.optimum(), np.float64)
    fits = weights.shape == (n_members,) and bool((weights >= 0).all())
    if not fits or not abs(weights.sum() - 1) < 1e-9:
        raise ValueError(
            f"score.optimum must return {n_members} weights that are not negative "
            f"and sum to 1, found {weights}"
        )
    return np.asarray(weights / weights.sum())


def _named(weights: Floats) -> str:
    """Weights by member, without those that do not count."""
    if weights.ndim > 1:
        return f"weights {weights.tolist()}"
    found = {int(member): float(weights[member]) for member in np.flatnonzero(weights)}
    return f"weights {found}, by member"
