"""Factors of class probabilities that maximize a score of predicted labels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.thresholds.sweep_loops import (
    TIE,
    compute_margins,
    score_counts,
    sweep_class,
)

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

    def of_codes(self, codes: Float64) -> float:
        """Score of predicted classes, given by their indices."""
        rows, n_classes = np.arange(len(codes)), self.label_weights.shape[1]
        hits = np.bincount(codes, self.label_weights[rows, codes], n_classes)
        predicted = np.bincount(codes, self.row_weights, n_classes)
        actual = self.label_weights.sum(axis=0)
        return float(score_counts(hits, predicted, actual, self.positive, self.metric))


def best_factors(
    y_proba: Float64, score: LabelScore, start: Float64
) -> tuple[Float64, float]:
    """Factor of each class for which the largest products score best.

    Sweeps the factor of one class after another over all values that change a
    prediction, until no sweep improves the score. With two classes, the first sweep
    finds the maximum; with more, a local maximum.

    Parameters
    ----------
    y_proba : ndarray of shape (n_rows, n_classes), non-negative
        Class probabilities.
    score : LabelScore
        Score to maximize.
    start : ndarray of shape (n_classes,), positive
        Initial factors; they are kept where no others score better.

    Returns
    -------
    factors : ndarray of shape (n_classes,)
    score : float
        Score with these factors.
    """
    factors = start.copy()
    value = score.of_codes((y_proba * factors).argmax(axis=1))
    classes = range(1, 2) if len(factors) == 2 else range(len(factors))
    margins, rivals = np.empty(len(y_proba)), np.empty(len(y_proba), np.int64)
    for _ in range(MAX_PASSES):
        before = value
        for k in classes:
            compute_margins(y_proba, factors, k, margins, rivals)
            best, low, high = sweep_class(
                *(margins, np.argsort(margins), rivals),
                *(score.label_weights, score.row_weights),
                *(k, factors[k], score.positive, score.metric),
            )
            if best > value + TIE:
                value, factors[k] = best, _inside(low, high)
        if len(classes) == 1 or value <= before + TIE:
            break
    return factors, value


def _inside(low: float, high: float) -> float:
    """Geometric mean of two ends; a third of, or three times, the end that is left."""
    if low == 0:
        return high / 3
    return 3 * low if high == np.inf else math.sqrt(low) * math.sqrt(high)
