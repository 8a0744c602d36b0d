"""ROC AUC of the mean probabilities, estimated by sorting integer keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks, map_threads, resolve_n_threads
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.roc_auc_loops import STEPS, count_pairs, pack_keys
from ensembles.predictions.metrics.scorer import (
    UNIT,
    BoundedScore,
    NotApplicable,
    RunningSums,
    as_float_array,
    with_one_more,
)

CHUNK = 4  # members per job of a thread


class RocAuc(BoundedScore):
    """ROC AUC of the mean probabilities, for two classes and no sample weights.

    The area is the fraction of correctly ordered pairs of one row per class, with ties
    counted as one half. The probability of the second class in 31 bits, followed by the
    label as the last bit, is sorted as an integer. The order of pairs with nearly equal
    keys is uncertain; the mean itself is computed for members whose rank depends on
    such pairs.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Probabilities of two classes.
    combiner : FittedCombiner
        Rule "mean".
    scoring : str
        "roc_auc".

    Raises
    ------
    NotApplicable
        If there are sample weights, several outputs or other than two classes, if the
        held-out rows have one class only, or if a probability is negative or NaN, or
        a row sum zero.

    References
    ----------
    Hanley & McNeil (1982), "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve", Radiology 143.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        super().__init__(out_of_fold, combiner, scoring)
        if (
            not isinstance(out_of_fold.outputs, ClassOutputs)
            or out_of_fold.sample_weight is not None
            or len(out_of_fold.stacks) != 1
            or out_of_fold.stacks[0].shape[2] != 2
        ):
            raise NotApplicable
        self.stack = as_float_array(out_of_fold.stacks[0])
        self.labels = out_of_fold.outputs.encode(out_of_fold.y)[0]
        n_positive = int(self.labels.sum())
        self.n_pairs = n_positive * (len(self.labels) - n_positive)
        min_proba = min(float(y_proba.min()) for y_proba in self.stack)
        # Also False for NaN, which `min` may skip.
        is_positive = all((y_proba.sum(axis=1) > 0).all() for y_proba in self.stack)
        if self.n_pairs == 0 or not (min_proba >= 0 and is_positive):
            raise NotApplicable
        self.running_sums = RunningSums(self.stack)
        # The scorer sums at most as many trapezoids as there are rows.
        self.scorer_error = 4 * UNIT * (len(self.labels) + 8)

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        sums = self.running_sums.update(counts)
        rounding = 4 * UNIT * (float(counts.sum()) + 12)
        slack = 1 + int(rounding * STEPS)

        def count_block(bounds: tuple[int, int]) -> Float64:
            keys = np.empty(len(sums), np.uint32)
            n_pairs = np.empty((bounds[1] - bounds[0], 2))
            for index, member in enumerate(members[slice(*bounds)]):
                pack_keys(sums, self.stack[member], self.labels, keys)
                keys.sort()
                n_pairs[index] = count_pairs(keys, slack)
            return n_pairs

        jobs = list(chunks(len(members), CHUNK))
        blocks = map_threads(jobs, lambda: count_block, resolve_n_threads(None))
        values, errors = (np.concatenate(blocks) / (2 * self.n_pairs)).T
        errors = errors + self.scorer_error
        is_ambiguous = self.ambiguous(counts, values, errors)
        for index in np.flatnonzero(is_ambiguous & (errors > self.scorer_error)):
            values[index] = self._exact_area(counts, members[index])
            errors[index] = self.scorer_error
        return values, errors

    def _exact_area(self, counts: Counts, member: int) -> float:
        """Area after one more copy of a member, from the mean itself."""
        weights = with_one_more(counts, member)
        y_proba = self.combiner(self.out_of_fold.stacks, weights)[0]
        order = np.argsort(y_proba[:, 1], kind="stable")
        n_ordered = _count_ordered_pairs(y_proba[order, 1], self.labels[order])
        return n_ordered / self.n_pairs


def _count_ordered_pairs(sorted_proba: Float64, labels: Counts) -> float:
    """Number of correctly ordered pairs; ties count one half."""
    ends = np.flatnonzero(np.append(np.diff(sorted_proba) > 0, True))
    n_positive = np.diff(np.cumsum(labels)[ends], prepend=0)
    n_negative = np.diff(np.cumsum(1 - labels)[ends], prepend=0)
    n_negative_below = np.cumsum(n_negative) - n_negative
    return float((n_positive * (2 * n_negative_below + n_negative)).sum()) / 2
