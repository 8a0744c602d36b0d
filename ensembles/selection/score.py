"""Scores of weights, and what else a score may offer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles._typing import Counts, Float64

ROUNDING = 1e-9  # what gains may be off by, relative to the score, or to 1 if less


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

    def __call__(self, weights: Float64, /) -> float: ...


class Trial(NamedTuple):
    """Weights that were tried, of shape (n_members,), and their score."""

    weights: Float64
    score: float


def score_of(score: Score, weights: Float64) -> float:
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


def own_scores(n_members: int, score: Score) -> Float64:
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


def gains_of(score: Score, counts: Counts, members: Counts) -> Float64:
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


def gradient_of(score: Score, weights: Float64) -> Float64:
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


def optimum_of(score: Any, n_members: int) -> Float64:
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


def _named(weights: Float64) -> str:
    """Weights by member, without those that do not count."""
    if weights.ndim > 1:
        return f"weights {weights.tolist()}"
    found = {int(member): float(weights[member]) for member in np.flatnonzero(weights)}
    return f"weights {found}, by member"
