"""What members said of data that they had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.fitting import Split
from ensembles.predictions.members.outputs import Answer, Labels, Values


class Held(NamedTuple):
    """Held-out predictions, and what they should have been.

    Parameters
    ----------
    stacks : list of ndarrays of shape (n_members, n_samples, n_columns)
        One for each output; probabilities of the classes, or values of the targets.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    answers : Labels or Values
    sample_weight : ndarray of shape (n_samples,) or None
    folds : ndarray of shape (n_samples,) or None, default=None
        Which split held a sample out, the last one that did.
    """

    stacks: list[Float64]
    y: Any
    answers: Labels | Values
    sample_weight: Float64 | None
    folds: Counts | None = None

    @property
    def n_members(self) -> int:
        """How many members answered."""
        return len(self.stacks[0])

    @property
    def answered(self) -> Any:
        """Which samples were held out, shape (n_samples,)."""
        return ~np.isnan(self.stacks[0]).all(axis=(0, 2))

    def only(self, some: Any) -> Held:
        """Some of the samples, told by a mask."""
        return self if some.all() else self.rows(some)

    def rows(self, some: Any) -> Held:
        """Some of the samples, told by a mask or by their indices."""
        weight = None if self.sample_weight is None else self.sample_weight[some]
        stacks = [stack[:, some] for stack in self.stacks]
        folds = None if self.folds is None else self.folds[some]
        return Held(stacks, np.asarray(self.y)[some], self.answers, weight, folds)


def folds_of(splits: Sequence[Split], n_samples: int) -> Counts:
    """Which split held each sample out, the last one that did; -1 where none.

    Parameters
    ----------
    splits : sequence of (train, test)
    n_samples : int

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    folds = np.full(n_samples, -1)
    for place, (_, test) in enumerate(splits):
        folds[test] = place
    return folds


def stacked(
    folds: Sequence[Sequence[Answer]], splits: Sequence[Split], n_samples: int
) -> list[Float64]:
    """Held-out answers in the order of the samples.

    Parameters
    ----------
    folds : sequence of n_members sequences of answers, one for each split
    splits : sequence of (train, test)
    n_samples : int

    Returns
    -------
    list of ndarrays of shape (n_members, n_samples, n_columns), one for each output
        The mean where a sample was held out more than once, NaN where never.
    """
    counts = np.zeros(n_samples)
    for _, test in splits:
        counts[test] += 1
    stacks = []
    for outputs in zip(*(answer for member in folds for answer in member), strict=True):
        width = outputs[0].shape[1]
        stack = np.zeros((len(folds), n_samples, width))
        for place, answer in enumerate(outputs):
            member, split = divmod(place, len(splits))
            stack[member, splits[split][1]] += answer
        with np.errstate(invalid="ignore"):
            stack /= counts[:, None]
        stacks.append(stack)
    return stacks
