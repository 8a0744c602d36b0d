"""Score of member weights at the thresholds that are best for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import Predictions
from ensembles.predictions.metrics.scorer import RunningSums, ScorerScore
from ensembles.predictions.thresholds.learning import label_scores
from ensembles.predictions.thresholds.sweep import best_factors
from ensembles.predictions.thresholds.sweep_loops import score_with_each


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
        return float(np.mean([best_factors(*pair)[1] for pair in pairs]))


EACH_ROUND = 8  # thresholds change in each of so many rounds, then once in so many


class MeanThresholdScore(ThresholdScore):
    """Score of mean probabilities at their best thresholds, for greedy selection.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members, with the true labels.
    combiner : FittedCombiner
        Rule "mean".
    scoring : str
        Score of labels that `supports_thresholds`.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        super().__init__(out_of_fold, combiner, scoring)
        self.stacks = [np.ascontiguousarray(stack) for stack in out_of_fold.stacks]
        self.running_sums = list(map(RunningSums, self.stacks))
        self.factors = [score.starts()[-1] for score in self.label_scores]

    def gains(self, counts: Counts, members: Counts) -> Float64:
        """Scores after one more copy of each of ``members``.

        Members are added at the thresholds that are best before, so that no sweep is
        needed for each: weights and thresholds are improved in turn.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            Number of copies of each member so far.
        members : ndarray of indices
            Members to add, each by itself.

        Returns
        -------
        ndarray of the shape of ``members``
            If all counts are zero, the scores at the best thresholds of each member.
        """
        if not counts.any():
            return np.array([self(weights) for weights in np.eye(len(counts))[members]])
        gains = np.zeros(len(members))
        for output, (stack, score) in enumerate(
            zip(self.stacks, self.label_scores, strict=True)
        ):
            sums = self.running_sums[output].update(counts)
            # From the thresholds of an earlier round, one pass suffices, and the later
            # a round, the less they change.
            factors, size = self.factors[output], counts.sum()
            if size <= EACH_ROUND or size % EACH_ROUND == 0:
                factors, _ = best_factors(sums, score, factors, max_passes=1)
                self.factors[output] = factors
            values = np.empty(len(members))
            score_with_each(
                *(sums, stack, members, factors, score.label_weights),
                *(score.row_weights, score.positive, score.metric, values),
            )
            gains += values / len(self.stacks)
        return gains
