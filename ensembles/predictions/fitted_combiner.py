"""How an ensemble combines: a combiner with all that it needs besides the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.members.outputs import Answer, Answers
from ensembles.weights import check_weights

RESOLUTION = 1 << 16


@dataclass(frozen=True)
class Combination:
    """A combiner with its parameters, and with predictions to compare with.

    Parameters
    ----------
    combiner : Combiner
    params : dict
        The combiner's own.
    answers : Answers
    training : list of lists of ndarrays or None, default=None
        Of each output, what a ranked combiner compares each member's answers with.
    intercepts : list of ndarrays of shape (n_classes,) or None, default=None
        Of each output, what a log-linear pool adds to the logarithm of each class.
    """

    combiner: Combiner
    params: dict[str, Any]
    answers: Answers
    training: list[list[Float64]] | None = None
    intercepts: list[Float64] | None = None

    def __call__(self, stacks: Sequence[Any], weights: Float64) -> Answer:
        """Combined answer.

        Parameters
        ----------
        stacks : sequence of n_outputs iterables of n_members arrays
            Each array of shape (n_samples, n_columns), gone through once.
        weights : ndarray of shape (n_members,)

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
            combined.append(self.answers.finished(made))
        return combined

    def ranked(self, held: Held) -> Combination:
        """The same, with held-out answers to compare with where it needs them."""
        if not self.combiner.ranked:
            return self
        rows = np.arange(len(held.y))
        if held.sample_weight is not None:
            rows = np.repeat(rows, _repeats(held.sample_weight))
        training = [list(np.sort(stack[:, rows], axis=1)) for stack in held.stacks]
        return replace(self, training=training)

    def only(
        self, places: Sequence[int], weights: Float64
    ) -> tuple[Combination, Float64]:
        """The same for some of the members, and their weights.

        Where members share a sum of weights that says something, as in a log-pool, it
        stays: the others answer for those that are left out. In a product each speaks
        for itself.

        Raises
        ------
        ValueError
            If members that count are left out, and the sum of the weights, or of those
            of the others, is not positive.
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
        shared = self.combiner.scaled and self.combiner.shared
        return kept * (total / size) if shared else kept


def _repeats(sample_weight: Float64) -> Counts:
    """How often to count each sample: its weight if whole, else nearly in proportion.

    Ranks are known to one part in `RESOLUTION` then, and no more rows are kept.
    """
    size = max(RESOLUTION, 4 * len(sample_weight))
    if (sample_weight == sample_weight.round()).all() and sample_weight.max() < 2**53:
        counts: Counts = sample_weight.astype(np.int64)
        counts //= np.gcd.reduce(counts)
        if counts.sum(dtype=np.float64) <= size:
            return counts
    parts = sample_weight * (size / sample_weight.sum())
    return np.asarray(parts.round(), np.int64)
