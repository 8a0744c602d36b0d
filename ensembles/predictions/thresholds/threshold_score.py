"""Score of member weights at the thresholds that are best for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import Predictions
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.thresholds.learning import best_of_starts, label_scores


class ThresholdScore(ScorerScore):
    """Score of weights, each with the thresholds that maximize its score.

    A selection that maximizes it chooses weights and thresholds jointly.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members, with the true labels.
    combiner : FittedCombiner
        Rule of the ensemble, with its parameters.
    scoring : str
        Score of labels that `supports_thresholds`.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        super().__init__(out_of_fold, combiner, scoring)
        self.label_scores = label_scores(out_of_fold, scoring)

    def of_predictions(self, predictions: Predictions) -> float:
        """Score of combined predictions at their best thresholds.

        Parameters
        ----------
        predictions : list of n_outputs ndarrays of shape (n_samples, n_classes)
            Combined predictions.

        Returns
        -------
        float
        """
        pairs = zip(predictions, self.label_scores, strict=True)
        return float(np.mean([best_of_starts(*pair)[1] for pair in pairs]))
