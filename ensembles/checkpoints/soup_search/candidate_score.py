"""Candidates as a selection sees them: a score of weights, greater is better."""

from __future__ import annotations

import numpy as np

from ensembles._sklearn import warn_user
from ensembles._typing import Float64
from ensembles.checkpoints.soup_search.candidates import Candidate, Candidates

# A step of a slope: a shorter one is lost where parameters or scores are rounded.
STEP = 0.05


class Tasting:
    """Score of weights over those members that could be scored alone.

    A combination whose score failed counts as worse than all that were scored before.

    Parameters
    ----------
    candidates : Candidates
    lower_is_better : bool

    Attributes
    ----------
    own : list of Candidate
        Each member alone, and the base.
    kept : list of int
        Which of them could be scored.

    Raises
    ------
    ValueError
        If no member could be scored, or not the base.

    Warns
    -----
    UserWarning
        Of each member that is left out, and if all score the same.
    """

    def __init__(self, candidates: Candidates, *, lower_is_better: bool) -> None:
        self.candidates = candidates
        self.lower_is_better = lower_is_better
        self._values: list[float] = []
        n_members = len(candidates.pool.members)
        self.own: list[Candidate] = []
        self.kept: list[int] = []
        for place, row in enumerate(np.eye(n_members)):
            self.own.append(candidates(row))
            if self.own[-1].score is None:
                self._leave_out(place)
            else:
                self.kept.append(place)
        if len(self.kept) <= candidates.has_base:
            raise ValueError(
                f"at least one member must be scored, all {n_members} failed; the "
                f"last: {self.own[-1].error}"
            )
        scores = {self.own[place].score for place in self.kept}
        if len(self.kept) > len(scores) == 1:
            warn_user(
                f"every member scored exactly {scores.pop():.6g}: is that what is "
                "meant as the score? Of a command it is the last number printed"
            )

    def __call__(self, weights: Float64) -> float:
        """Score of weights of the members that are kept."""
        found = self.candidates(self.full(weights)).score
        if found is None:
            lowest = min(self._values)
            return lowest - max(1.0, abs(lowest))
        value = -found if self.lower_is_better else found
        self._values.append(value)
        return value

    def gradient(self, weights: Float64) -> Float64:
        """Slopes towards each member, from scores of `STEP` on the way there.

        Where no such step helps all are 0: to climb on would cost scores for nothing.

        Parameters
        ----------
        weights : ndarray of shape (n_kept,)

        Returns
        -------
        ndarray of shape (n_kept,)

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
        """Weights of all members, 0 for those that are left out.

        Parameters
        ----------
        weights : ndarray of shape (n_kept,)

        Returns
        -------
        ndarray of shape (n_members,)
        """
        found = np.zeros(len(self.own))
        found[self.kept] = weights
        return found

    def uniform(self) -> Float64:
        """Equal weights of all members that are kept, none of the base.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        found = np.zeros(len(self.own))
        members = self.kept[self.candidates.has_base :]
        found[members] = 1 / len(members)
        return found

    def _leave_out(self, place: int) -> None:
        (name,), error = self.own[place].members, self.own[place].error
        if self.candidates.has_base and place == 0:
            raise ValueError(f"the base must be scored, {name} failed: {error}")
        warn_user(f"{name} is left out, it could not be scored: {error}")
