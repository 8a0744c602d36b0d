"""scikit-learn scorers as scores of weights, with a fast and exact variant."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
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

UNIT = 2.0**-53  # largest relative rounding error of float64
# Largest |sum - 1| of a row of probabilities; rounding to float32 gives about 1e-7.
ROW_SUM_TOLERANCE = 1e-6


class NotApplicable(Exception):
    """A fast score does not support the format or values of these predictions."""


class ScorerScore:
    """Score of weights: any scikit-learn scorer, applied to the combined predictions.

    Each score combines all members with nonzero weight and runs the scorer on the
    result. For 500 members, 100 000 rows and 10 classes this takes about a tenth of a
    second, and a greedy round computes 500 such scores.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members, with the true targets.
    combiner : FittedCombiner
        Rule of the ensemble, with its parameters.
    scoring : str, callable or None
        As in scikit-learn; None is the negative log-loss for classifiers and the
        negative mean squared error for regressors.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        self.out_of_fold = out_of_fold
        self.combiner = combiner
        self.scoring = scoring

    def __call__(self, weights: Float64) -> float:
        return self.of_predictions(self.combiner(self.out_of_fold.stacks, weights))

    def of_predictions(self, predictions: Predictions) -> float:
        """Score by which weights are selected, of the predictions that they give.

        Parameters
        ----------
        predictions : list of n_outputs ndarrays of shape (n_samples, n_columns)
            Combined predictions.

        Returns
        -------
        float
        """
        return self.evaluate(predictions)

    def evaluate(self, predictions: Predictions) -> float:
        """Score of combined predictions for the held-out samples.

        Parameters
        ----------
        predictions : list of n_outputs ndarrays of shape (n_samples, n_columns)
            Combined predictions.

        Returns
        -------
        float
        """
        is_log_loss = isinstance(self.scoring, str) and self.scoring == "neg_log_loss"
        if self.scoring is None or (is_log_loss and self._missing_classes):
            return -self._default_loss(predictions)
        try:
            return self._scorer_value(predictions)
        except ValueError as error:
            if self._missing_classes:
                error.add_note(
                    f"the held-out data lack classes {self._missing_classes}: hold out "
                    "samples of each class, or use scoring='neg_log_loss' or "
                    "'accuracy'"
                )
            raise

    def _scorer_value(self, predictions: Predictions) -> float:
        """Value of the scikit-learn scorer."""
        outputs, weight = self.out_of_fold.outputs, self.out_of_fold.sample_weight
        estimator: Any
        if isinstance(outputs, ClassOutputs):
            estimator = PrecomputedClassifier(outputs)
        else:
            estimator = PrecomputedRegressor(outputs.multioutput)
        kwargs = {} if weight is None else {"sample_weight": weight}
        scorer, y = get_scorer(self.scoring), self.out_of_fold.y
        try:
            return float(scorer(estimator, np.hstack(predictions), y, **kwargs))
        except TypeError as error:
            if "argument 'sample_weight'" not in str(error):
                raise
            raise TypeError(
                f"scoring {self.scoring!r} must accept sample_weight: {error}; to "
                "score without weights, use set_config(enable_metadata_routing=True) "
                "and pass a scorer with set_score_request(sample_weight=False)"
            ) from error

    @cached_property
    def _missing_classes(self) -> list[Any]:
        """Classes without a held-out sample; empty for several targets."""
        outputs = self.out_of_fold.outputs
        if not isinstance(outputs, ClassOutputs) or outputs.n_outputs > 1:
            return []
        return list(np.setdiff1d(outputs.classes[0], self.out_of_fold.y).tolist())

    def _default_loss(self, predictions: Predictions) -> float:
        """Log-loss or squared error, averaged over the outputs."""
        outputs, y = self.out_of_fold.outputs, self.out_of_fold.y
        weight = self.out_of_fold.sample_weight
        if isinstance(outputs, RegressionOutputs):
            errors = (np.asarray(y).reshape(len(y), -1) - predictions[0]) ** 2
            return float(np.average(errors.mean(axis=1), weights=weight))
        losses = [
            _log_loss(codes, y_proba, weight)
            for codes, y_proba in zip(outputs.encode(y), predictions, strict=True)
        ]
        return float(np.mean(losses))


def _log_loss(codes: Any, y_proba: Float64, weight: Float64 | None) -> float:
    """Log-loss with the probability clipping of scikit-learn."""
    true_proba = y_proba[np.arange(len(codes)), codes]
    eps = np.finfo(y_proba.dtype).eps
    clipped = np.clip(true_proba, eps, 1 - eps)
    return -float(np.average(np.log(clipped), weights=weight))


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
        for index in np.flatnonzero(self.ambiguous(counts, values, errors)):
            values[index] = self(with_one_more(counts, members[index]))
        return values

    @staticmethod
    def ambiguous(counts: Counts, values: Float64, errors: Float64) -> Any:
        """Mask of the estimates whose errors could change the selection.

        These are estimates whose error leaves the order of the scores undecided, or is
        larger than rounding. If all counts are zero, the order of all scores matters,
        otherwise only the largest score.

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
            return _may_be_largest(values, errors) & (errors > 0)
        is_inexact = errors > ROUNDING * np.maximum(1, np.abs(values))
        return (_has_undecided_order(values, errors) & (errors > 0)) | is_inexact

    def matches_scorer(self) -> bool:
        """Whether the estimate for the first and last member agrees with the scorer.

        It disagrees if the installed scikit-learn defines the score differently, or if
        the combined predictions are normalized in a way that is not implemented here.
        """
        counts = np.zeros(self.out_of_fold.n_members, np.int64)
        counts[0] = 1
        last = np.array([len(counts) - 1])
        values, errors = self.estimates(counts, last)
        score = self(with_one_more(counts, last[0]))
        return bool(abs(score - values[0]) <= errors[0])


def with_one_more(counts: Counts, member: int) -> Float64:
    """Weights in the ratio of the counts, after adding 1 to the count of a member."""
    increased = counts + (np.arange(len(counts)) == member)
    return np.asarray(increased / increased.sum())


def _may_be_largest(values: Float64, errors: Float64) -> Any:
    """Mask of values that may be the largest; empty if one exact value must be."""
    candidates = values + errors >= (values - errors).max()
    is_inexact = errors > ROUNDING * np.maximum(1, abs(values))
    return candidates & (is_inexact | (candidates.sum() > 1))


def _has_undecided_order(values: Float64, errors: Float64) -> Any:
    """Mask of values whose order relative to a neighbor is undecided."""
    order = np.argsort(values - errors)
    upper = np.maximum.accumulate((values + errors)[order])
    undecided = (values - errors)[order][1:] <= upper[:-1]
    mask = np.zeros(len(values), bool)
    mask[order[1:]] |= undecided
    mask[order[:-1]] |= undecided
    return mask


class RunningSums:
    """Running sums of member predictions, each times the count of the member.

    Parameters
    ----------
    predictions : ndarray of shape (n_members, ...)
        Predictions of the members; not copied.
    """

    def __init__(self, predictions: Float64) -> None:
        self.predictions = predictions
        self._reset()

    def _reset(self) -> None:
        self.counts = np.zeros(len(self.predictions), np.int64)
        self.sums = np.zeros(self.predictions.shape[1:])

    def update(self, counts: Counts) -> Float64:
        """Sums for these counts, updated from the previous call if no count decreased.

        Each entry is rounded at most ``2 * counts.sum()`` times.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            Number of copies of each member.

        Returns
        -------
        ndarray of shape (...)
            Reused by the next call.
        """
        if (counts < self.counts).any():
            self._reset()
        for member in np.flatnonzero(counts > self.counts):
            n_copies = counts[member] - self.counts[member]
            self.sums += np.multiply(
                self.predictions[member], n_copies, dtype=np.float64
            )
        self.counts = counts.copy()
        return self.sums


def as_float_array(stack: Float64) -> Float64:
    """Convert a stack to a plain ndarray without a copy.

    Parameters
    ----------
    stack : array of shape (n_members, n_samples, n_columns)
        Predictions of the members.

    Returns
    -------
    ndarray of the same shape

    Raises
    ------
    NotApplicable
        If the dtype is not float32 or float64, or the stack is empty.
    """
    array = np.asarray(stack)  # the loops do not accept np.memmap
    if array.dtype not in (np.float32, np.float64) or 0 in array.shape:
        raise NotApplicable
    return array


def normalized_sample_weight(sample_weight: Float64 | None, n_rows: int) -> Float64:
    """Weights of the rows, scaled to sum 1.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_rows,) or None
        Sample weights; None weights all rows equally.
    n_rows : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n_rows,)

    Raises
    ------
    NotApplicable
        If a weight is negative, or all are zero.
    """
    if sample_weight is None:
        return np.full(n_rows, 1 / n_rows)
    row_weights = np.asarray(sample_weight, np.float64)
    total = math.fsum(row_weights)
    if not (total > 0 and (row_weights >= 0).all()):
        raise NotApplicable
    return row_weights / total
