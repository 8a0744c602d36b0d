"""Scores of predictions on data and on bootstrap resamples of the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.bootstrap import resample
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    OutputSpec,
    Predictions,
)
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.metrics.table import SCORER_ERRORS
from ensembles.rank_correlation import spearman

TOLERANCE = 1e-9  # relative difference of a mean over rows from the scorer's value
# Statistics of all models on resamples: (rows of shape (n_drawn, n)) -> (n_models,
# n_drawn).
Statistic = Callable[[Counts], Float64]


@dataclass(frozen=True)
class HeldOutScore:
    """Score of predictions by a scikit-learn scorer; greater is better.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        True targets.
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions.
    scoring : str or callable
        Name of a scorer, or a callable as in `EnsembleClassifier`.
    """

    y: Any
    outputs: OutputSpec
    scoring: Any

    def __call__(self, predictions: Predictions) -> float:
        """Score on all rows.

        Parameters
        ----------
        predictions : list of n_outputs ndarrays of shape (n_samples, n_columns)
            Predictions of one model.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the score is not finite.
        """
        score = self._on_rows(predictions, slice(None))
        if not np.isfinite(score):
            name = self.scoring if isinstance(self.scoring, str) else "the score"
            raise ValueError(
                f"{name} of the predictions for {len(self.y)} samples must be finite, "
                f"found {score}: e.g. the targets have one class, or there is one "
                "sample; use more samples or another scoring"
            )
        return score

    def _on_rows(self, predictions: Predictions, rows: Any) -> float:
        combiner = FittedCombiner(COMBINERS["mean"], {}, self.outputs)
        out_of_fold = OutOfFold([], self.y[rows], self.outputs, None)
        score = ScorerScore(out_of_fold, combiner, self.scoring)
        return score.evaluate([output[rows] for output in predictions])

    def resampled(
        self, predictions: Sequence[Predictions], *, n_resamples: int, seed: int
    ) -> Float64:
        """Scores of all models on the same resamples of the rows.

        Parameters
        ----------
        predictions : sequence of Predictions
            Predictions of each model.
        n_resamples : int
            Number of resamples.
        seed : int
            Seed of the resampling.

        Returns
        -------
        ndarray of shape (n_models, n_resamples)
            NaN where a score is undefined, e.g. because a resample lacks a class.
        """
        statistic = self._fast_statistic(predictions) or self._by_scorer(predictions)
        return resample(statistic, len(self.y), n_resamples=n_resamples, seed=seed)

    def _by_scorer(self, predictions: Sequence[Predictions]) -> Statistic:
        """Statistic that runs the scorer on each resample."""

        def score(model: Predictions, rows: Counts) -> float:
            with warnings.catch_warnings():
                # Scorers warn about classes that a resample lacks.
                warnings.simplefilter("ignore")
                try:
                    return self._on_rows(model, rows)
                except SCORER_ERRORS:
                    return np.nan

        return lambda rows: np.array(
            [[score(model, drawn) for drawn in rows] for model in predictions]
        )

    def _fast_statistic(self, predictions: Sequence[Predictions]) -> Statistic | None:
        """Statistic without a call of the scorer for each resample, if there is one."""
        if self.scoring is spearman_scorer:
            similarities = np.array([model[0][:, 0] for model in predictions])
            return lambda rows: spearman(similarities[:, rows], self.y[rows])
        is_name = isinstance(self.scoring, str)
        means = ROW_MEANS.get(self.scoring) if is_name else None
        if means is None or self.outputs.n_outputs > 1 or self.y.ndim > 1:
            return None
        values = np.array([means.rows(self, model) for model in predictions])
        scores = means.finish(values.mean(axis=-1).swapaxes(0, 1))
        exact = [self(model) for model in predictions]
        if not np.allclose(scores, exact, rtol=TOLERANCE, atol=TOLERANCE):
            return None
        n_rows = len(self.y)

        def statistic(rows: Counts) -> Float64:
            counts = [np.bincount(drawn, minlength=n_rows) for drawn in rows]
            sums = values @ np.array(counts, np.float64).T
            return np.asarray(means.finish(sums.swapaxes(0, 1) / n_rows))

        return statistic


class RowMeans(NamedTuple):
    """A score that is a function of means over rows.

    Parameters
    ----------
    rows : callable (score, predictions) -> ndarray of shape (n_means, n_rows)
        Values of each row.
    finish : callable (means) -> ndarray
        Score from the means, along their first axis.
    """

    rows: Callable[[HeldOutScore, Predictions], Any]
    finish: Callable[[Any], Any]


def _is_correct(score: HeldOutScore, predictions: Predictions) -> Any:
    return [score.outputs.to_targets(predictions) == score.y]


def _log_probabilities(score: HeldOutScore, predictions: Predictions) -> Any:
    assert isinstance(score.outputs, ClassOutputs)
    (codes,), (y_proba,) = score.outputs.encode(score.y), predictions
    eps = np.finfo(y_proba.dtype).eps
    return [np.log(np.clip(y_proba[np.arange(len(codes)), codes], eps, 1 - eps))]


def _squared_errors(score: HeldOutScore, predictions: Predictions) -> Any:
    return [np.square(score.y - predictions[0][:, 0])]


def _squares(score: HeldOutScore, predictions: Predictions) -> Any:
    """Squared errors, and targets relative to their mean, for the variance."""
    centered = score.y - np.mean(score.y)
    return [*_squared_errors(score, predictions), centered, np.square(centered)]


def _r2(means: Any) -> Any:
    error, mean, square = means
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples of equal targets
        return 1 - error / (square - np.square(mean))


ROW_MEANS = {
    "accuracy": RowMeans(_is_correct, lambda means: means[0]),
    "neg_log_loss": RowMeans(_log_probabilities, lambda means: means[0]),
    "neg_mean_squared_error": RowMeans(_squared_errors, lambda means: -means[0]),
    "neg_root_mean_squared_error": RowMeans(
        _squared_errors, lambda means: -np.sqrt(means[0])
    ),
    "r2": RowMeans(_squares, _r2),
}


def spearman_scorer(estimator: Any, X: Any, y: Any) -> float:
    """Spearman correlation of predictions with ratings, as a scorer.

    Parameters
    ----------
    estimator : object
        Regressor whose ``predict`` returns similarities.
    X : array-like of shape (n_pairs, ...)
        Pairs.
    y : array-like of shape (n_pairs,)
        Ratings.

    Returns
    -------
    float
    """
    return float(spearman(np.asarray(estimator.predict(X)), np.asarray(y)))
