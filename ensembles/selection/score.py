"""The protocol of scores of weights, and functions that call and check scores."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles._typing import Counts, Float64

ROUNDING = 1e-9  # error bound of gains, relative to the score, or to 1 if it is less


class Score(Protocol):
    """Score of weights; greater is better.

    A score is called with float64 weights of shape (n_members,) that sum to 1, and
    returns a finite number. Selections pass non-negative weights. A score may have
    three more methods:

    - ``gains(counts, members)`` returns an array of the shape of ``members``: for each
      of these members the score of the weights ``counts / counts.sum()``, after adding
      1 to the count of this member. If all counts are zero, these are the scores of
      single members. Values may have a relative error of ``ROUNDING``, which must not
      change the greatest value, must not create or break ties, and must not change the
      order of values if all counts are zero. `greedy` uses it.
    - ``gradient(weights)`` returns an array of shape (n_members,), up to a constant
      added to all entries, which has no effect on weights that sum to 1. `convex` uses
      it.
    - ``optimum()`` returns the weights that maximize the score, of shape (n_members,),
      non-negative, with sum 1. `convex` returns them instead of optimizing.
    """

    def __call__(self, weights: Float64, /) -> float: ...


class Trial(NamedTuple):
    """Weights of shape (n_members,) that were scored, and their score."""

    weights: Float64
    score: float


def score_of(score: Score, weights: Float64) -> float:
    """Score of weights, checked to be finite.

    Parameters
    ----------
    score : Score
        Score of weights; greater is better.
    weights : ndarray of shape (n_members,), non-negative, sum 1
        Weights to score.

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
    """Score of each member alone.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : Score
        Score of weights. Its method ``gains`` is used if it has one.

    Returns
    -------
    ndarray of shape (n_members,)

    Raises
    ------
    ValueError
        If ``n_members`` is below 1 or a score is not finite.
    """
    if n_members < 1:
        raise ValueError(f"there must be at least one member, found {n_members}")
    return gains_of(score, np.zeros(n_members, np.int64), np.arange(n_members))


def gains_of(score: Score, counts: Counts, members: Counts) -> Float64:
    """Score after adding each of several members once more.

    Parameters
    ----------
    score : Score
        Score of weights. Its method ``gains`` is used if it has one.
    counts : ndarray of shape (n_members,), int64
        Number of times that each member was added so far.
    members : ndarray of indices
        Members to add, each separately.

    Returns
    -------
    ndarray of the shape of ``members``

    Raises
    ------
    ValueError
        If a score is not finite, or ``score.gains`` returns an array of another shape.
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
    """Gradient of a score, up to a constant added to all entries.

    Parameters
    ----------
    score : Score
        Score of weights. Its method ``gradient`` is used if it has one, otherwise
        finite differences in the direction of each member alone.
    weights : ndarray of shape (n_members,), non-negative, sum 1
        Weights at which to evaluate the gradient.

    Returns
    -------
    ndarray of shape (n_members,)

    Raises
    ------
    ValueError
        If an entry is not finite, or ``score.gradient`` returns an array of another
        shape.
    """
    offered = getattr(score, "gradient", None)
    if offered is None:
        # Only weights on the simplex can be scored; a step along an axis leaves it.
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
    """Weights that maximize a score, from its method ``optimum``.

    Parameters
    ----------
    score : Score
        Score with the method ``optimum``.
    n_members : int
        Number of members.

    Returns
    -------
    ndarray of shape (n_members,), non-negative, sum 1

    Raises
    ------
    ValueError
        If ``score.optimum`` returns an array of another shape, a negative weight, or
        weights whose sum is not 1.
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
    """Nonzero weights by member index, for messages."""
    if weights.ndim > 1:
        return f"weights {weights.tolist()}"
    found = {int(member): float(weights[member]) for member in np.flatnonzero(weights)}
    return f"weights {found}, by member"
