"""scikit-learn scorers as scores of weights, with a fast and exact variant."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    Predictions,
    RegressionOutputs,
)
from ensembles.predictions.members.precomputed import (
    PrecomputedClassifier,
    PrecomputedRegressor,
)
from ensembles.selection.score import ROUNDING

Combine = Callable[[list[Float64], Float64], Predictions]

UNIT = 2.0**-53  # largest relative rounding error of float64


class NotApplicable(Exception):
    """A fast score does not support the format or values of these predictions."""


class ScorerScore:
    """Score of weights: any scikit-learn scorer, run on the combined predictions.

    Each score combines all members with nonzero weight and runs the scorer on the
    result. For 500 members, 100 000 rows and 10 classes this takes about a tenth of a
    second, and a greedy round computes 500 such scores.

    Parameters
    ----------
    held : OutOfFold
        Held-out predictions of the members, with the true targets.
    combine : callable
        ``(stacks, weights) -> answer``, with the rule of the ensemble.
    scoring : str, callable or None
        As in scikit-learn; None is the negative log-loss for classifiers and the
        negative mean squared error for regressors.
    """

    def __init__(self, held: OutOfFold, combine: Combine, scoring: Any) -> None:
        self.held = held
        self.combine = combine
        self.scoring = scoring

    def __call__(self, weights: Float64) -> float:
        return self.evaluate(self.combine(self.held.stacks, weights))

    def evaluate(self, answer: Predictions) -> float:
        """Score of combined predictions for the held-out samples."""
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

    def _asked(self, answer: Predictions) -> float:
        """Value of the scikit-learn scorer."""
        scorer = get_scorer(self.scoring)
        outputs, y, weight = self.held.outputs, self.held.y, self.held.sample_weight
        known: Any = PrecomputedRegressor(getattr(outputs, "several", False))
        if isinstance(outputs, ClassOutputs):
            known = PrecomputedClassifier(outputs)
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
        """Classes without a held-out sample; empty for several targets."""
        outputs = self.held.outputs
        if not isinstance(outputs, ClassOutputs) or outputs.n_outputs > 1:
            return []
        return list(np.setdiff1d(outputs.classes[0], self.held.y).tolist())

    def _loss(self, answer: Predictions) -> float:
        """Log-loss or squared error, averaged over the outputs."""
        outputs, y, weight = self.held.outputs, self.held.y, self.held.sample_weight
        if isinstance(outputs, RegressionOutputs):
            errors = (np.asarray(y).reshape(len(y), -1) - answer[0]) ** 2
            return float(np.average(errors.mean(axis=1), weights=weight))
        losses = [
            _log_loss(codes, share, weight)
            for codes, share in zip(outputs.encode(y), answer, strict=True)
        ]
        return float(np.mean(losses))


def _log_loss(codes: Any, share: Float64, weight: Float64 | None) -> float:
    """Log-loss with the probability clipping of scikit-learn."""
    found = share[np.arange(len(codes)), codes]
    least = np.finfo(share.dtype).eps
    return -float(np.average(np.log(np.clip(found, least, 1 - least)), weights=weight))


class BoundedScore(ScorerScore):
    """Base class of scores with fast estimates of known error bounds.

    `gains` returns the estimates, except for candidates whose error bounds leave the
    largest gain undecided: these get the value of the scorer itself, so that a greedy
    selection chooses as it would with the scorer. Subclasses implement `estimates`.
    """

    @abstractmethod
    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Estimated scores after one more copy of each of ``members``.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            Number of copies of each member so far.
        members : ndarray of indices
            Members to add, each by itself.

        Returns
        -------
        values : ndarray of the shape of ``members``
            Estimates of the scorer's values.
        errors : ndarray of the shape of ``members``
            Upper bounds of the absolute errors of ``values``.
        """

    def gains(self, counts: Counts, members: Counts) -> Float64:
        """Scores after one more copy of each of ``members``, for greedy selection.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            Number of copies of each member so far.
        members : ndarray of indices
            Members to add, each by itself.

        Returns
        -------
        ndarray of the shape of ``members``
            The position of the largest score and its ties are the same as with the
            scorer itself; if all counts are zero, so is the order of all scores.
        """
        values, errors = self.estimates(counts, members)
        for place in np.flatnonzero(self.ambiguous(counts, values, errors)):
            values[place] = self(_with_one_more(counts, members[place]))
        return values

    @staticmethod
    def ambiguous(counts: Counts, values: Float64, errors: Float64) -> Any:
        """Mask of the estimates that are not good enough.

        All scores matter if all counts are zero, else the largest. An estimate is not
        good enough if its error leaves their order undecided, or is more than rounding.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            Number of copies of each member so far.
        values, errors : ndarrays of the same shape
            Estimates and their error bounds, in the same unit.

        Returns
        -------
        ndarray of bool
            True for estimates to replace by the value of the scorer.
        """
        if counts.sum() > 0:
            return _near_the_greatest(values, errors) & (errors > 0)
        wide = errors > ROUNDING * np.maximum(1, np.abs(values))
        return (_near_another(values, errors) & (errors > 0)) | wide

    def matches_scorer(self) -> bool:
        """Whether the estimate for the first plus the last member fits the scorer.

        It does not if the installed scikit-learn defines the score differently, or if
        the combined predictions are normalized in a way not implemented here.
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
    """Mask of values that may be the largest; empty if a single, exact one is."""
    near = values + errors >= (values - errors).max()
    far = errors > ROUNDING * np.maximum(1, abs(values))
    return near & (far | (near.sum() > 1))


def _near_another(values: Float64, errors: Float64) -> Any:
    """Mask of values whose order relative to a neighbor is undecided."""
    order = np.argsort(values - errors)
    upper = np.maximum.accumulate((values + errors)[order])
    unsure = (values - errors)[order][1:] <= upper[:-1]
    near = np.zeros(len(values), bool)
    near[order[1:]] |= unsure
    near[order[:-1]] |= unsure
    return near


class RunningSums:
    """Running sums of member predictions, each times the count of the member.

    Parameters
    ----------
    said : ndarray of shape (n_members, ...)
        Predictions of the members; not copied.
    """

    def __init__(self, said: Float64) -> None:
        self.said = said
        self._start()

    def _start(self) -> None:
        self.counts = np.zeros(len(self.said), np.int64)
        self.sums = np.zeros(self.said.shape[1:])

    def update(self, counts: Counts) -> Float64:
        """Sums for these counts, updated from the previous call if no count decreased.

        Each entry is rounded at most ``2 * counts.sum()`` times. The array is reused by
        the next call.
        """
        if (counts < self.counts).any():
            self._start()
        for member in np.flatnonzero(counts > self.counts):
            more = counts[member] - self.counts[member]
            self.sums += np.multiply(self.said[member], more, dtype=np.float64)
        self.counts = counts.copy()
        return self.sums
