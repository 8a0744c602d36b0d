"""Area under the ROC curve of a mean, by one sort of packed keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import count_threads, cut, spread
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.members.outputs import Labels
from ensembles.predictions.metrics.log_loss import suited
from ensembles.predictions.metrics.roc_auc_loops import STEPS, count_pairs, pack
from ensembles.predictions.metrics.scorer import (
    UNIT,
    Bounded,
    Combine,
    RunningSums,
    Unsuited,
)

CHUNK = 4  # members that a thread takes at a time


class RankedPairs(Bounded):
    """Area under the ROC curve of the mean, for two classes and rows that count alike.

    It is the share of pairs, one row of each class, that are in the right order, ties
    counting half. Shares of the second class in 31 bits, with the label as the last,
    are sorted as integers. Pairs in neighbouring places are in doubt, and members not
    told apart without them are told apart by the mean itself.

    Parameters
    ----------
    held : Held
    combine : callable
    scoring : str

    References
    ----------
    Hanley & McNeil (1982), "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve", Radiology 143.
    """

    def __init__(self, held: Held, combine: Combine, scoring: Any) -> None:
        super().__init__(held, combine, scoring)
        if (
            not isinstance(held.answers, Labels)
            or held.sample_weight is not None
            or len(held.stacks) != 1
            or held.stacks[0].shape[2] != 2
        ):
            raise Unsuited
        self.stack = suited(held.stacks[0])
        self.labels = held.answers.codes(held.y)[0]
        n_true = int(self.labels.sum())
        self.n_pairs = n_true * (len(self.labels) - n_true)
        least = min(float(said.min()) for said in self.stack)
        some = all(bool((said.sum(axis=1) > 0).all()) for said in self.stack)
        if self.n_pairs == 0 or not (least >= 0 and some):
            raise Unsuited
        self.running = RunningSums(self.stack)
        # The scorer adds up as many trapezes as there are rows.
        self.adding = 4 * UNIT * (len(self.labels) + 8)

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after adding each of some members once more, and their errors."""
        sums = self.running.at(counts)
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

        jobs = list(cut(len(members), CHUNK))
        found = np.concatenate(spread(jobs, lambda: work, count_threads(None)))
        values, errors = (found / (2 * self.n_pairs)).T
        errors = errors + self.adding
        near = self.in_doubt(counts, values, errors)
        for place in np.flatnonzero(near & (errors > self.adding)):
            values[place] = self._settled(counts, members[place])
            errors[place] = self.adding
        return values, errors

    def _settled(self, counts: Counts, member: int) -> float:
        """The area, ties and all, by the mean itself."""
        more = counts.copy()
        more[member] += 1
        answer = self.combine(self.held.stacks, more / more.sum())[0]
        order = np.argsort(answer[:, 1], kind="stable")
        return _area(answer[order, 1], self.labels[order]) / self.n_pairs


def _area(sorted_said: Float64, labels: Counts) -> float:
    """Pairs in the right order, ties counting half."""
    ends = np.flatnonzero(np.append(np.diff(sorted_said) > 0, True))
    trues = np.diff(np.cumsum(labels)[ends], prepend=0)
    falses = np.diff(np.cumsum(1 - labels)[ends], prepend=0)
    below = np.cumsum(falses) - falses
    return float((trues * (2 * below + falses)).sum()) / 2
