"""Factors of class probabilities that maximize a score of predicted labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.thresholds.sweep_loops import maximize, score_factors

MAX_PASSES = 20  # over all classes; two or three usually suffice


class LabelScore(NamedTuple):
    """Score of predicted labels, for true labels that may be uncertain.

    Parameters
    ----------
    metric : int
        Number of the score in `sweep_loops`.
    label_weights : ndarray of shape (n_rows, n_classes)
        Weight of each row, times the probability that the class is its true class.
    row_weights : ndarray of shape (n_rows,)
        Weights of the rows.
    positive : int, default=1
        Class whose score is F1; other scores ignore it.
    """

    metric: int
    label_weights: Float64
    row_weights: Float64
    positive: int = 1

    def starts(self) -> Float64:
        """Factors to start from: equal ones, and for several classes balancing ones.

        Returns
        -------
        ndarray of shape (n_starts, n_classes)
        """
        class_sizes = self.label_weights.sum(axis=0)
        equal = np.ones(len(class_sizes))
        if len(equal) == 2 or not class_sizes.all():
            return equal[None]
        return np.stack([equal, class_sizes.mean() / class_sizes])

    def at_factors(self, y_proba: Float64, factors: Float64) -> float:
        """Score of the labels with the largest products of probability and factor.

        Parameters
        ----------
        y_proba : ndarray of shape (n_rows, n_classes), non-negative
            Class probabilities.
        factors : ndarray of shape (n_classes,), positive
            Factors of the probabilities.

        Returns
        -------
        float
        """
        score = score_factors(
            *(y_proba, factors, self.label_weights, self.row_weights),
            *(self.positive, self.metric),
        )
        return float(score)


def best_factors(
    y_proba: Float64,
    score: LabelScore,
    start: Float64 | None = None,
    *,
    max_passes: int = MAX_PASSES,
) -> tuple[Float64, float]:
    """Factor of each class for which the largest products score best.

    Parameters
    ----------
    y_proba : ndarray of shape (n_rows, n_classes), non-negative
        Class probabilities.
    score : LabelScore
        Score to maximize.
    start : ndarray of shape (n_classes,) or None, default=None
        Initial factors. None means equal factors or, with several classes, those in
        the inverse ratio of the class sizes if they score better.
    max_passes : int, default=20
        Largest number of sweeps of each class.

    Returns
    -------
    factors : ndarray of shape (n_classes,)
        The maximum with two classes, a local maximum with more. Initial factors are
        kept where no others score better.
    score : float
        Score with these factors.
    """
    y_proba = np.ascontiguousarray(y_proba, np.float64)
    if start is None:
        start = max(score.starts(), key=lambda row: score.at_factors(y_proba, row))
    factors = np.array(start)
    value = maximize(
        *(y_proba, factors, score.label_weights, score.row_weights),
        *(score.positive, score.metric, max_passes),
    )
    return factors, float(value)
