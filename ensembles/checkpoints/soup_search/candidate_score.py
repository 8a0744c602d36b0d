"""Adapts candidate scores to the `Score` protocol (greater is better)."""

from __future__ import annotations

import math

import numpy as np

from ensembles._sklearn import warn_user
from ensembles._typing import Counts, Float64
from ensembles.checkpoints.soup_search.candidates import Candidate, Candidates

# Step of finite differences: smaller ones vanish in rounded parameters or scores.
STEP = 0.05
ROUNDING = 1e-12  # of a sum of weights; the base has no weight if it is that near to 1


class Tasting:
    """Score of weights over the members whose own score did not fail.

    A combination whose score fails gets a lower score than all previous ones.

    Parameters
    ----------
    candidates : Candidates
        Scores of combinations of all members, cached by weights.
    lower_is_better : bool
        Whether to negate the scores.

    Attributes
    ----------
    own : list of Candidate
        Each member alone, after the base if there is one.
    kept : list of int
        Indices in ``own`` of the members with a score, without the base.

    Raises
    ------
    ValueError
        If no member could be scored, or the base could not.

    Warns
    -----
    UserWarning
        For each member that is left out, and if all members have the same score.
    """

    def __init__(self, candidates: Candidates, *, lower_is_better: bool) -> None:
        self.candidates = candidates
        self.lower_is_better = lower_is_better
        self._values: list[float] = []
        n_members = len(candidates.members)
        self.own: list[Candidate] = []
        self.kept: list[int] = []
        for place, row in enumerate(np.eye(n_members)):
            self.own.append(candidates(row))
            if self.own[-1].score is None:
                self._leave_out(place)
            elif place or not candidates.has_base:
                self.kept.append(place)
        if not self.kept:
            raise ValueError(
                f"at least one member must be scored, all {n_members} failed; the "
                f"last: {self.own[-1].error}"
            )
        scores = [found.score for found in self.own if found.score is not None]
        if len(scores) > len(set(scores)) == 1:
            warn_user(
                f"every member scored exactly {scores[0]:.6g}: is that what is "
                "meant as the score? Of a command it is the last number printed"
            )

    def score_counts(self, counts: Counts) -> float:
        """Score of the weights ``counts / counts.sum()``.

        Parameters
        ----------
        counts : ndarray of shape (n_kept,), int64
            How often each member was added.

        Returns
        -------
        float
        """
        return self(counts / counts.sum(), counts)

    def __call__(self, weights: Float64, counts: Counts | None = None) -> float:
        """Score of weights.

        Parameters
        ----------
        weights : ndarray of shape (n_kept,), non-negative
            Member weights; the base has 1 minus their sum.
        counts : ndarray of shape (n_kept,), int64, or None, default=None
            How often each member was added, in the ratio of the weights; None if
            members were not added one by one.

        Returns
        -------
        float
        """
        n_members = len(self.own)
        if counts is not None:
            counted, counts = counts, np.zeros(n_members, np.int64)
            counts[self.kept] = counted
        found = self.candidates(self.full(weights), counts).score
        if found is None:
            lowest = min(self._values)
            return lowest - max(1.0, abs(lowest))
        value = -found if self.lower_is_better else found
        self._values.append(value)
        return value

    def gradient(self, weights: Float64) -> Float64:
        """Slopes of the score towards each member, by finite differences of `STEP`.

        Parameters
        ----------
        weights : ndarray of shape (n_kept,)
            Weights to start each step from.

        Returns
        -------
        ndarray of shape (n_kept,)
            All 0 if no step improves the score, so that gradient ascent stops.

        Warns
        -----
        UserWarning
            If no step changes the score.
        """
        here = self(weights)
        steps = (1 - STEP) * weights + STEP * np.eye(len(weights))
        rises = np.array([self(there) for there in steps]) - here
        if not rises.any():
            warn_user(
                "a score that is climbed must change with the weights, and steps of "
                f"{STEP:g} towards each member change nothing; select='greedy_soup' "
                "needs no slope"
            )
        return rises / STEP if rises.max() > 0 else np.zeros(len(weights))

    def full(self, weights: Float64) -> Float64:
        """Expand weights of the kept members to all members and the base.

        Parameters
        ----------
        weights : ndarray of shape (n_kept,)
            Weights in the order of ``kept``.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        found = np.zeros(len(self.own))
        found[self.kept] = weights
        if self.candidates.has_base:
            share = 1 - math.fsum(weights)
            found[0] = share if abs(share) > ROUNDING else 0.0
        return found

    def uniform(self) -> Float64:
        """Equal weights of the kept members, 0 for the base and the others.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        found = np.zeros(len(self.own))
        found[self.kept] = 1 / len(self.kept)
        return found

    def _leave_out(self, place: int) -> None:
        (name,), error = self.own[place].members, self.own[place].error
        if self.candidates.has_base and place == 0:
            raise ValueError(f"the base must be scored, {name} failed: {error}")
        warn_user(f"{name} is left out, it could not be scored: {error}")
