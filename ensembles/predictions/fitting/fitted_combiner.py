"""A combiner with its parameters and learned state, except the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitting.final_estimator import FinalEstimator
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import OutputSpec, Predictions
from ensembles.weights import check_weights

RANK_RESOLUTION = 1 << 16  # ranks by sample weights are accurate to one part in this


@dataclass(frozen=True)
class FittedCombiner:
    """A combiner with its parameters, training predictions and intercepts.

    Parameters
    ----------
    combiner : Combiner
        Function that combines the predictions.
    params : dict
        Parameters of the combiner.
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions.
    training : list of lists of ndarrays or None, default=None
        For each output and member, the sorted predictions that ``"rank_mean"`` ranks
        against, of shape (n_training, n_columns). None for other combiners.
    intercepts : list of ndarrays of shape (n_classes,) or None, default=None
        For each output, the intercepts that a log-linear pool adds to the logarithm of
        each class; None adds nothing.
    final : FinalEstimator or None, default=None
        Second layer that predicts in place of the combiner; None uses the combiner.
    """

    combiner: Combiner
    params: dict[str, Any]
    outputs: OutputSpec
    training: list[list[Float64]] | None = None
    intercepts: list[Float64] | None = None
    final: FinalEstimator | None = None

    def __call__(self, stacks: Sequence[Any], weights: Float64) -> Predictions:
        """Combine predictions of the members.

        Parameters
        ----------
        stacks : sequence of n_outputs iterables of n_members arrays
            Predictions, each array of shape (n_samples, n_columns); iterated once.
        weights : ndarray of shape (n_members,)
            Weights of the members.

        Returns
        -------
        list of n_outputs ndarrays of shape (n_samples, n_columns), float64
        """
        if self.final is not None:
            return self.final(stacks)
        predictions = []
        for output, members in enumerate(stacks):
            learned: dict[str, Any] = {}
            if self.training is not None:
                learned["training"] = self.training[output]
            if self.intercepts is not None:
                learned["intercept"] = self.intercepts[output]
            combined = self.combiner.function(
                members, weights, **self.params, **learned
            )
            predictions.append(self.outputs.finalize(combined))
        return predictions

    def with_training_predictions(self, out_of_fold: OutOfFold) -> FittedCombiner:
        """Copy with out-of-fold predictions as ``training``, if the combiner needs it.

        With sample weights, each prediction is repeated by its weight.
        """
        if not self.combiner.needs_training_predictions:
            return self
        rows = np.arange(len(out_of_fold.y))
        if out_of_fold.sample_weight is not None:
            rows = np.repeat(rows, _repeats(out_of_fold.sample_weight))
        stacks = [stack[:, rows] for stack in out_of_fold.stacks]
        return replace(self, training=[list(np.sort(s, axis=1)) for s in stacks])

    def subset(
        self, members: Sequence[int], weights: Float64
    ) -> tuple[FittedCombiner, Float64]:
        """Restrict the combiner and the weights to some of the members.

        In a log-linear pool, the remaining weights are rescaled to the sum of all
        weights, which sets how sharp the result is. In a product, they are unchanged.

        Parameters
        ----------
        members : sequence of int
            Indices of the members that remain.
        weights : ndarray of shape (n_members,)
            Weights of all members.

        Returns
        -------
        combiner : FittedCombiner
            Copy with the training predictions of these members.
        weights : ndarray of shape (len(members),)
            Weights of these members.

        Raises
        ------
        ValueError
            If members with nonzero weight are left out, and the sum of all weights or
            of the remaining weights is not positive; if any member is left out that the
            final estimator was fitted on.
        """
        if self.final is not None and len(members) < len(weights):
            missing = sorted(set(range(len(weights))) - set(members))
            raise ValueError(
                "final_estimator_ needs the predictions of all members: those of the "
                f"members with indices {missing} failed; fit again without these "
                "members, or with final_estimator=None"
            )
        remaining = weights[members]
        if np.count_nonzero(remaining) < np.count_nonzero(weights):
            remaining = self._rescale(remaining, weights)
        if self.training is None:
            return self, remaining
        training = [[output[member] for member in members] for output in self.training]
        return replace(self, training=training), remaining

    def _rescale(self, remaining: Float64, weights: Float64) -> Float64:
        combiner = self.combiner
        total, remaining_total = math.fsum(weights), math.fsum(remaining)
        if min(total, remaining_total) <= 0:
            raise ValueError(
                f"weights of {combiner.name!r} must have a positive sum, also without "
                f"the members that are left out: found {remaining.tolist()} of "
                f"{weights.tolist()}; increase the weights of the other members"
            )
        remaining = check_weights(
            remaining, len(remaining), signed=combiner.signed, rule=combiner.name
        )
        if combiner.weight_sum_matters and combiner.equal_weights_sum_to_one:
            return remaining * (total / remaining_total)
        return remaining


def as_float32(combined: Predictions, dtypes: set[np.dtype[Any]]) -> Predictions:
    """Combined predictions as float32, if all members predict float32.

    Parameters
    ----------
    combined : list of ndarrays
        Combined predictions of each output.
    dtypes : set of dtype
        Dtypes of the members' predictions.

    Returns
    -------
    list of ndarrays
    """
    if dtypes != {np.dtype(np.float32)}:
        return combined
    return [output.astype(np.float32) for output in combined]


def _repeats(sample_weight: Float64) -> Counts:
    """Repetitions of each sample: its weight if integer, else nearly proportional.

    Their sum is at most about `RANK_RESOLUTION`, or 4 per sample if that is more.
    """
    size = max(RANK_RESOLUTION, 4 * len(sample_weight))
    if (sample_weight == sample_weight.round()).all() and sample_weight.max() < 2**53:
        counts: Counts = sample_weight.astype(np.int64)
        counts //= np.gcd.reduce(counts)
        if counts.sum(dtype=np.float64) <= size:
            return counts
    parts = sample_weight * (size / sample_weight.sum())
    return np.asarray(parts.round(), np.int64)
