"""ROC AUC of the mean probabilities, estimated by sorting integer keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks, map_threads, resolve_n_threads
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.roc_auc_loops import STEPS, count_pairs, pack
from ensembles.predictions.metrics.scorer import (
    UNIT,
    BoundedScore,
    NotApplicable,
    RunningSums,
    as_float_array,
)

CHUNK = 4  # members per job of a thread


class RocAuc(BoundedScore):
    """ROC AUC of the mean probabilities, for two classes and no sample weights.

    The area is the fraction of correctly ordered pairs of one row per class, with ties
    counted as one half. The probability of the second class in 31 bits, followed by the
    label as the last bit, is sorted as an integer. Pairs with nearly equal keys are in
    doubt; the mean itself is computed for members whose order depends on such pairs.

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
        n_true = int(self.labels.sum())
        self.n_pairs = n_true * (len(self.labels) - n_true)
        least = min(float(said.min()) for said in self.stack)
        some = all(bool((said.sum(axis=1) > 0).all()) for said in self.stack)
        if self.n_pairs == 0 or not (least >= 0 and some):
            raise NotApplicable
        self.running = RunningSums(self.stack)
        # The scorer sums at most as many trapezoids as there are rows.
        self.adding = 4 * UNIT * (len(self.labels) + 8)

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        sums = self.running.update(counts)
        rounding = 4 * UNIT * (float(counts.sum()) + 12)
        slack = 1 + int(rounding * STEPS)

        def work(part: tuple[int, int]) -> Float64:
            keys = np.empty(len(sums), np.uint32)
            found = np.empty((part[1] - part[0], 2))
            for place, member in enumerate(members[slice(*part)]):
                pack(sums, self.stack[member], self.labels, keys)
                keys.sort()
                found[place] = count_pairs(keys, slack)
            return found

        jobs = list(chunks(len(members), CHUNK))
        found = np.concatenate(map_threads(jobs, lambda: work, resolve_n_threads(None)))
        values, errors = (found / (2 * self.n_pairs)).T
        errors = errors + self.adding
        near = self.ambiguous(counts, values, errors)
        for place in np.flatnonzero(near & (errors > self.adding)):
            values[place] = self._settled(counts, members[place])
            errors[place] = self.adding
        return values, errors

    def _settled(self, counts: Counts, member: int) -> float:
        """Area for one more copy of a member, from the mean itself, with exact ties."""
        more = counts.copy()
        more[member] += 1
        answer = self.combiner(self.out_of_fold.stacks, more / more.sum())[0]
        order = np.argsort(answer[:, 1], kind="stable")
        return _area(answer[order, 1], self.labels[order]) / self.n_pairs


def _area(sorted_said: Float64, labels: Counts) -> float:
    """Number of correctly ordered pairs; ties count one half."""
    ends = np.flatnonzero(np.append(np.diff(sorted_said) > 0, True))
    trues = np.diff(np.cumsum(labels)[ends], prepend=0)
    falses = np.diff(np.cumsum(1 - labels)[ends], prepend=0)
    below = np.cumsum(falses) - falses
    return float((trues * (2 * below + falses)).sum()) / 2
