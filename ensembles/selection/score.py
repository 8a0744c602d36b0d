"""Scores of weights: the protocol, and the cache through which selections call it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles._typing import Counts, Float64

ROUNDING = 1e-9  # error bound of gains, relative to the score, or to 1 if it is less


class Score(Protocol):
    """Score of weights; greater is better.

    A score is called with float64 weights of shape (n_members,) that are non-negative
    and sum to 1, and returns a finite number. Selections that need a base pass weights
    with a sum of at most 1; the base has the rest. A score may have more methods:

    - ``score_counts(counts)`` returns the score of the weights ``counts /
      counts.sum()``, for int64 counts of how often each member was added. Selections
      that add members one by one use it.
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
    - ``ranges``, a mapping of str to `ParameterRange`, are parameters of the rule that
      are chosen beside the weights, and ``score_params(weights, params)`` returns the
      score of weights with values for all of them. `optuna` uses them.
    """

    def __call__(self, weights: Float64, /) -> float: ...


class ParameterRange(NamedTuple):
    """Range in which a selection chooses a parameter of the rule.

    Parameters
    ----------
    low, high : float or int
        Least and largest value.
    first : float or int
        Value that is tried first.
    is_integer : bool, default=False
        Whether only integers are tried.
    """

    low: float
    high: float
    first: float
    is_integer: bool = False


class Trial(NamedTuple):
    """Weights that were scored, and their score.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Member weights.
    score : float
        Their score.
    counts : ndarray of shape (n_members,), int64, or None, default=None
        How often each member was added, in the ratio of the weights; None if the
        selection does not add members one by one.
    params : mapping of str to number or None, default=None
        Parameters of the rule that were tried; None without ranges.
    """

    weights: Float64
    score: float
    counts: Counts | None = None
    params: Mapping[str, float] | None = None


class CachedScore:
    """Score that calls another one once for each set of weights, and checks its values.

    Selections receive their score in this form.

    Parameters
    ----------
    score : Score
        Score of weights; greater is better. A call may take minutes.
    """

    def __init__(self, score: Score) -> None:
        self.score: Any = score
        self._values: dict[bytes, float] = {}

    def supports(self, method: str) -> bool:
        """Whether the score has an optional method of `Score`.

        Parameters
        ----------
        method : {"score_counts", "gains", "gradient", "optimum"}
            Name of the method.

        Returns
        -------
        bool
        """
        return getattr(self.score, method, None) is not None

    def __call__(self, weights: Float64) -> float:
        """Score of weights.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weights to score.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the score is not finite; the message names the weights.
        """
        key = weights.tobytes()
        if key not in self._values:
            self._values[key] = _check_finite(self.score(weights), weights)
        return self._values[key]

    def score_counts(self, counts: Counts) -> float:
        """Score of weights in the ratio of counts.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            How often each member was added.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the score is not finite; the message names the weights.
        """
        weights = counts / counts.sum()
        key = weights.tobytes()
        if key not in self._values:
            if self.supports("score_counts"):
                value = self.score.score_counts(counts.copy())
            else:
                value = self.score(weights)
            self._values[key] = _check_finite(value, weights)
        return self._values[key]

    @property
    def ranges(self) -> Mapping[str, ParameterRange]:
        """Ranges of the rule's parameters; empty if the score has none."""
        return getattr(self.score, "ranges", None) or {}

    def score_params(self, weights: Float64, params: Mapping[str, float]) -> float:
        """Score of weights with parameters of the rule.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weights to score.
        params : mapping of str to number
            A value for each of ``ranges``.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the score is not finite; the message names the weights.
        """
        key = weights.tobytes() + repr(sorted(params.items())).encode()
        if key not in self._values:
            value = self.score.score_params(weights, params)
            self._values[key] = _check_finite(value, weights)
        return self._values[key]

    def member_scores(self, n_members: int) -> Float64:
        """Score of each member alone.

        Parameters
        ----------
        n_members : int, at least 1
            Number of members.

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
        if self.supports("gains"):
            counts = np.zeros(n_members, np.int64)
            return self.scores_after_adding(counts, np.arange(n_members))
        scores = np.empty(n_members)
        for index, counts in enumerate(np.eye(n_members, dtype=np.int64)):
            scores[index] = self.score_counts(counts)
        return scores

    def scores_after_adding(self, counts: Counts, members: Counts) -> Float64:
        """Score after adding each of several members once more.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            How often each member was added so far.
        members : ndarray of indices
            Members to add, each separately.

        Returns
        -------
        ndarray of the shape of ``members``
            From the method ``gains`` of the score, if it has one.

        Raises
        ------
        ValueError
            If a score is not finite, or ``gains`` returns an array of another shape.
        """
        added = np.eye(len(counts), dtype=np.int64)
        if not self.supports("gains"):
            scores = np.empty(len(members))
            for index, member in enumerate(members):
                scores[index] = self.score_counts(counts + added[member])
            return scores
        gains = np.asarray(self.score.gains(counts.copy(), members.copy()), np.float64)
        if gains.shape != members.shape:
            raise ValueError(
                f"score.gains must return one score for each of {len(members)} "
                f"members, found shape {gains.shape}"
            )
        for member, gain in zip(members, gains, strict=True):
            if not math.isfinite(gain):
                weights = (counts + added[member]) / (counts.sum() + 1)
                raise ValueError(
                    f"score.gains must be finite: {gain} at {_described(weights)}"
                )
        return gains

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of the score, up to a constant added to all entries.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Weights at which to evaluate the gradient.

        Returns
        -------
        ndarray of shape (n_members,)
            From the method ``gradient`` of the score if it has one, otherwise finite
            differences in the direction of each member alone.

        Raises
        ------
        ValueError
            If an entry is not finite, or ``gradient`` returns an array of another
            shape.
        """
        if not self.supports("gradient"):
            # Only weights on the simplex can be scored; a step along an axis leaves it.
            step = math.sqrt(np.finfo(np.float64).eps)
            value = self(weights)
            moved = (1 - step) * weights + step * np.eye(len(weights))
            return np.array([self(point) - value for point in moved]) / step
        gradient = np.asarray(self.score.gradient(weights), np.float64)
        if gradient.shape != weights.shape or not np.isfinite(gradient).all():
            raise ValueError(
                f"score.gradient must return {len(weights)} finite numbers, found "
                f"{gradient} at weights {weights}"
            )
        return gradient

    def optimum(self, n_members: int) -> Float64:
        """Weights that maximize the score, from its method ``optimum``.

        Parameters
        ----------
        n_members : int
            Number of members.

        Returns
        -------
        ndarray of shape (n_members,), non-negative, sum 1

        Raises
        ------
        ValueError
            If ``optimum`` returns an array of another shape, a negative weight, or
            weights whose sum is not 1.
        """
        weights = np.asarray(self.score.optimum(), np.float64)
        is_valid = weights.shape == (n_members,) and bool((weights >= 0).all())
        if not is_valid or not abs(weights.sum() - 1) < 1e-9:
            raise ValueError(
                f"score.optimum must return {n_members} non-negative weights with sum "
                f"1, found {weights}"
            )
        return np.asarray(weights / weights.sum())


def _check_finite(value: Any, weights: Float64) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"score must be finite: {number} at {_described(weights)}")
    return number


def _described(weights: Float64) -> str:
    """Nonzero weights by member index, for messages."""
    if weights.ndim > 1:
        return f"weights {weights.tolist()}"
    if not weights.any():
        return "the base alone"
    nonzero = {int(index): float(weights[index]) for index in np.flatnonzero(weights)}
    return f"weights {nonzero}, by member"
