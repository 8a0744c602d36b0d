"""A combiner with its parameters and learned state, except the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import OutputSpec, Predictions
from ensembles.weights import check_weights

RESOLUTION = 1 << 16


@dataclass(frozen=True)
class FittedCombiner:
    """A combiner with its parameters, training predictions and intercepts.

    Parameters
    ----------
    combiner : Combiner
        Function that combines the predictions.
    params : dict
        Parameters of the combiner.
    outputs : OutputSpec
        Format of the predictions.
    training : list of lists of ndarrays or None, default=None
        For each output and member, the sorted predictions that a ranked combiner ranks
        against, of shape (n_training, n_columns). None for other combiners.
    intercepts : list of ndarrays of shape (n_classes,) or None, default=None
        For each output, the intercepts that a log-linear pool adds to the logarithm of
        each class; None adds nothing.
    """

    combiner: Combiner
    params: dict[str, Any]
    outputs: OutputSpec
    training: list[list[Float64]] | None = None
    intercepts: list[Float64] | None = None

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
        combined = []
        for output, members in enumerate(stacks):
            learned: dict[str, Any] = {}
            if self.training is not None:
                learned["training"] = self.training[output]
            if self.intercepts is not None:
                learned["intercept"] = self.intercepts[output]
            made = self.combiner.function(members, weights, **self.params, **learned)
            combined.append(self.outputs.finalize(made))
        return combined

    def with_training_predictions(self, held: OutOfFold) -> FittedCombiner:
        """Copy with held-out predictions as ``training``, if the combiner is ranked."""
        if not self.combiner.needs_training_predictions:
            return self
        rows = np.arange(len(held.y))
        if held.sample_weight is not None:
            rows = np.repeat(rows, _repeats(held.sample_weight))
        training = [list(np.sort(stack[:, rows], axis=1)) for stack in held.stacks]
        return replace(self, training=training)

    def subset(
        self, places: Sequence[int], weights: Float64
    ) -> tuple[FittedCombiner, Float64]:
        """Restrict the combination and the weights to some of the members.

        In a log-linear pool, the remaining weights are rescaled to the sum of all
        weights, which sets the sharpness. In a product, they are unchanged.

        Raises
        ------
        ValueError
            If members with nonzero weight are left out, and the sum of all weights or
            of the remaining weights is not positive.
        """
        kept = weights[places]
        if np.count_nonzero(kept) < np.count_nonzero(weights):
            kept = self._left(kept, weights)
        if self.training is None:
            return self, kept
        training = [[output[place] for place in places] for output in self.training]
        return replace(self, training=training), kept

    def _left(self, kept: Float64, weights: Float64) -> Float64:
        total, size = math.fsum(weights), math.fsum(kept)
        if min(total, size) <= 0:
            raise ValueError(
                f"weights of {self.combiner.name!r} must have a positive sum, also "
                f"without members that are left out: found {kept.tolist()} of "
                f"{weights.tolist()}; weigh those that are left more"
            )
        rule = self.combiner.name
        kept = check_weights(kept, len(kept), signed=self.combiner.signed, rule=rule)
        shared = (
            self.combiner.weight_sum_matters and self.combiner.equal_weights_sum_to_one
        )
        return kept * (total / size) if shared else kept


def _repeats(sample_weight: Float64) -> Counts:
    """Repetitions of each sample: its weight if integer, else nearly proportional.

    Their sum is at most about `RESOLUTION`, or 4 per sample if that is more, so ranks
    are accurate to one part in `RESOLUTION`.
    """
    size = max(RESOLUTION, 4 * len(sample_weight))
    if (sample_weight == sample_weight.round()).all() and sample_weight.max() < 2**53:
        counts: Counts = sample_weight.astype(np.int64)
        counts //= np.gcd.reduce(counts)
        if counts.sum(dtype=np.float64) <= size:
            return counts
    parts = sample_weight * (size / sample_weight.sum())
    return np.asarray(parts.round(), np.int64)
