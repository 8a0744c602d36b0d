"""Out-of-fold predictions of the members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.fitting import Split
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    Predictions,
    RegressionOutputs,
)


class OutOfFold(NamedTuple):
    """Held-out predictions of the members, with the true targets.

    Parameters
    ----------
    stacks : list of ndarrays of shape (n_members, n_samples, n_columns)
        One per output; class probabilities, or values of the targets. NaN for samples
        that no split holds out.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        True targets.
    outputs : ClassOutputs or Values
        Format of the predictions.
    sample_weight : ndarray of shape (n_samples,) or None
        Sample weights; None weights all samples equally.
    folds : ndarray of shape (n_samples,) or None, default=None
        Index of the last split that holds each sample out; -1 for none.
    """

    stacks: list[Float64]
    y: Any
    outputs: ClassOutputs | RegressionOutputs
    sample_weight: Float64 | None
    folds: Counts | None = None

    @property
    def n_members(self) -> int:
        """Number of members."""
        return len(self.stacks[0])

    @property
    def was_held_out(self) -> Any:
        """Mask of the samples with held-out predictions, shape (n_samples,)."""
        return ~np.isnan(self.stacks[0]).all(axis=(0, 2))

    def subset(self, some: Any) -> OutOfFold:
        """Subset of the samples, by a boolean mask; itself if the mask is all True."""
        return self if some.all() else self.rows(some)

    def rows(self, some: Any) -> OutOfFold:
        """Subset of the samples, by a boolean mask or by indices."""
        weight = None if self.sample_weight is None else self.sample_weight[some]
        stacks = [stack[:, some] for stack in self.stacks]
        folds = None if self.folds is None else self.folds[some]
        return OutOfFold(stacks, np.asarray(self.y)[some], self.outputs, weight, folds)


def fold_indices(splits: Sequence[Split], n_samples: int) -> Counts:
    """Index of the split that holds each sample out.

    Parameters
    ----------
    splits : sequence of (train, test)
        Row indices of each split.
    n_samples : int
        Number of samples.

    Returns
    -------
    ndarray of shape (n_samples,)
        The last such split if there are several, -1 if there is none.
    """
    folds = np.full(n_samples, -1)
    for place, (_, test) in enumerate(splits):
        folds[test] = place
    return folds


def stack_folds(
    folds: Sequence[Sequence[Predictions]], splits: Sequence[Split], n_samples: int
) -> list[Float64]:
    """Stack held-out predictions of all members, in the order of the samples.

    Parameters
    ----------
    folds : sequence of n_members sequences of n_splits outputs
        Predictions of each member for the test rows of each split.
    splits : sequence of (train, test)
        Row indices of each split.
    n_samples : int
        Number of samples.

    Returns
    -------
    list of n_outputs ndarrays of shape (n_members, n_samples, n_columns)
        The mean for samples held out more than once, NaN for samples never held out.
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
