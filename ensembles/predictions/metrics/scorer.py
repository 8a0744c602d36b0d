"""Scorers of scikit-learn as scores of weights, and what makes them fast but exact."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.members.outputs import Answer, Labels, Values
from ensembles.predictions.members.precomputed import KnownClassifier, KnownRegressor
from ensembles.selection.score import ROUNDING

Combine = Callable[[list[Float64], Float64], Answer]

UNIT = 2.0**-53  # what rounding a float64 may change, relative to it


class Unsuited(Exception):
    """These predictions are not of the form that a fast score is for."""


class Scored:
    """Any scorer of scikit-learn, asked about the combination itself.

    Every score combines all members that count, and runs the scorer on the result: for
    500 members, 100 000 rows and 10 classes about a tenth of a second, and a greedy
    round takes 500 of them.

    Parameters
    ----------
    held : Held
    combine : callable
        ``(stacks, weights) -> answer``, with the estimator's rule.
    scoring : str, callable or None
    """

    def __init__(self, held: Held, combine: Combine, scoring: Any) -> None:
        self.held = held
        self.combine = combine
        self.scoring = scoring

    def __call__(self, weights: Float64) -> float:
        return self.of(self.combine(self.held.stacks, weights))

    def of(self, answer: Answer) -> float:
        """Score of an answer to the held-out data."""
        logs = isinstance(self.scoring, str) and self.scoring == "neg_log_loss"
        if self.scoring is None or (logs and self._lacking):
            return -self._loss(answer)
        try:
            return self._asked(answer)
        except ValueError as error:
            if self._lacking:
                error.add_note(
                    f"scoring {self.scoring!r} was asked of held-out data that lack "
                    f"classes {self._lacking}; hold out some of each, or use "
                    "scoring='neg_log_loss' or 'accuracy'"
                )
            raise

    def _asked(self, answer: Answer) -> float:
        """What the scorer says."""
        scorer = get_scorer(self.scoring)
        answers, y, weight = self.held.answers, self.held.y, self.held.sample_weight
        known: Any = KnownRegressor(getattr(answers, "several", False))
        if isinstance(answers, Labels):
            known = KnownClassifier(answers)
        given = {} if weight is None else {"sample_weight": weight}
        try:
            return float(scorer(known, np.hstack(answer), y, **given))
        except TypeError as error:
            if "argument 'sample_weight'" not in str(error):
                raise
            raise TypeError(
                f"scoring {self.scoring!r} must take sample_weight: {error}; with "
                "sklearn.set_config(enable_metadata_routing=True), give it as a scorer "
                "with set_score_request(sample_weight=False)"
            ) from error

    @cached_property
    def _lacking(self) -> list[Any]:
        """Classes of one target that no held-out sample has."""
        answers = self.held.answers
        if not isinstance(answers, Labels) or answers.n_outputs > 1:
            return []
        return list(np.setdiff1d(answers.classes[0], self.held.y).tolist())

    def _loss(self, answer: Answer) -> float:
        """Mean log-loss, or squared error, over the outputs."""
        answers, y, weight = self.held.answers, self.held.y, self.held.sample_weight
        if isinstance(answers, Values):
            errors = (np.asarray(y).reshape(len(y), -1) - answer[0]) ** 2
            return float(np.average(errors.mean(axis=1), weights=weight))
        losses = [
            _log_loss(codes, share, weight)
            for codes, share in zip(answers.codes(y), answer, strict=True)
        ]
        return float(np.mean(losses))


def _log_loss(codes: Any, share: Float64, weight: Float64 | None) -> float:
    """Log-loss clipped as scikit-learn clips it."""
    found = share[np.arange(len(codes)), codes]
    least = np.finfo(share.dtype).eps
    return -float(np.average(np.log(np.clip(found, least, 1 - least)), weights=weight))


class Bounded(Scored):
    """A scorer whose scores can be told cheaply, up to known errors.

    Gains are these estimates, and those that might be the greatest are scored by the
    scorer itself: the greatest and its ties are the scorer's own. Subclasses estimate.
    """

    @abstractmethod
    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after adding each of some members once more, and what they are off by.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
        members : ndarray of indices

        Returns
        -------
        values : ndarray of the shape of ``members``
        errors : ndarray of the same shape
            Bounds: the scorer's own value is no further away than that.
        """

    def gains(self, counts: Counts, members: Counts) -> Float64:
        """Scores after adding each of some members once more.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
        members : ndarray of indices

        Returns
        -------
        ndarray of the shape of ``members``
            The greatest, where counts are zero all, ordered as by the scorer itself.
        """
        values, errors = self.estimates(counts, members)
        for place in np.flatnonzero(self.in_doubt(counts, values, errors)):
            values[place] = self(_with_one_more(counts, members[place]))
        return values

    @staticmethod
    def in_doubt(counts: Counts, values: Float64, errors: Float64) -> Any:
        """Where estimates are not near enough to tell what matters of the order.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
        values, errors : ndarrays
            Estimates, in any unit.

        Returns
        -------
        ndarray of bool
        """
        near = _near_another if counts.sum() == 0 else _near_the_greatest
        return near(values, errors) & (errors > 0)

    def agrees(self) -> bool:
        """Whether the scorer says of two members what is estimated.

        It does not where the version of scikit-learn at hand defines the score in
        another way, or the answers are finished in a way not known here.
        """
        counts = np.zeros(self.held.n_members, np.int64)
        counts[0] = 1
        last = np.array([len(counts) - 1])
        values, errors = self.estimates(counts, last)
        own = self(_with_one_more(counts, last[0]))
        return bool(abs(own - values[0]) <= errors[0])


def _with_one_more(counts: Counts, member: int) -> Float64:
    more = counts + (np.arange(len(counts)) == member)
    return np.asarray(more / more.sum())


def _near_the_greatest(values: Float64, errors: Float64) -> Any:
    """Where a value may be the greatest, unless that is sure of one, and its value."""
    near = values + errors >= (values - errors).max()
    far = errors > ROUNDING * np.maximum(1, abs(values))
    return near & (far | (near.sum() > 1))


def _near_another(values: Float64, errors: Float64) -> Any:
    """Where the order of a value and its neighbour is not sure."""
    order = np.argsort(values - errors)
    upper = np.maximum.accumulate((values + errors)[order])
    unsure = (values - errors)[order][1:] <= upper[:-1]
    near = np.zeros(len(values), bool)
    near[order[1:]] |= unsure
    near[order[:-1]] |= unsure
    return near


class RunningSums:
    """Sums of what members said, each as often as it was counted.

    Parameters
    ----------
    said : ndarray of shape (n_members, ...)
    """

    def __init__(self, said: Float64) -> None:
        self.said = said
        self._start()

    def _start(self) -> None:
        self.counts = np.zeros(len(self.said), np.int64)
        self.sums = np.zeros(self.said.shape[1:])

    def at(self, counts: Counts) -> Float64:
        """Sums for these counts, added to those asked for before where there are more.

        Each entry has been rounded ``2 * counts.sum()`` times at most.
        """
        if (counts < self.counts).any():
            self._start()
        for member in np.flatnonzero(counts > self.counts):
            more = counts[member] - self.counts[member]
            self.sums += np.multiply(self.said[member], more, dtype=np.float64)
        self.counts = counts.copy()
        return self.sums
