"""Cross-validation splits, and out-of-fold predictions of the members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import check_cv

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.outputs import OutputSpec, Predictions

Split = tuple[Counts, Counts]  # row indices: training rows, test rows


def make_splits(
    cv: Any,
    X: Any,
    y: Any,
    *,
    classifier: bool,
    params: Mapping[str, Any],
    may_overlap: bool = False,
) -> list[Split]:
    """Training and test indices of each cross-validation split.

    Parameters
    ----------
    cv : int, splitter or iterable of splits
        As in `sklearn.model_selection.check_cv`; splits may be masks or slices.
    X, y : array-like
        Samples and targets, passed to the splitter.
    classifier : bool
        Whether an int means stratified folds (of binary or multiclass targets).
    params : mapping of str to value
        Keyword arguments of the splitter, such as ``groups``.
    may_overlap : bool, default=False
        Whether a row may be in both parts of a split, because no member is fitted.

    Returns
    -------
    list of (train, test)
        Non-negative indices.

    Raises
    ------
    ValueError
        If there are no splits, an index is out of range, training and test rows
        overlap, or the splitter needs groups.
    """
    splitter = check_cv(cv, y, classifier=classifier)
    try:
        splits = list(splitter.split(X, y, **params))
    except (ValueError, TypeError) as error:
        if not hasattr(splitter, "set_split_request") or "groups" in params:
            raise
        raise ValueError(
            f"cv={splitter!r} must get groups: {error}; pass "
            "cv=list(splitter.split(X, y, groups)), or fit(X, y, groups=groups) with "
            "sklearn.set_config(enable_metadata_routing=True)"
        ) from error
    if not splits:
        raise ValueError(
            "cv must have at least one split, found none; a generator is exhausted "
            "after one fit, pass cv=list(splits)"
        )
    rows = np.arange(len(y))
    try:
        splits = [(np.asarray(rows[a]), np.asarray(rows[b])) for a, b in splits]
    except IndexError as error:
        raise ValueError(
            f"cv must contain indices of the {len(y)} rows passed to fit: {error}"
        ) from None
    if not may_overlap:
        _check_disjoint(splits)
    return splits


def _check_disjoint(splits: Sequence[Split]) -> None:
    for index, (train, test) in enumerate(splits):
        shared = np.intersect1d(train, test)
        if len(shared):
            raise ValueError(
                "cv must have disjoint training and test rows: in split "
                f"{index}, {len(shared)} of {len(np.unique(test))} test rows are also "
                f"training rows, e.g. row {shared[0]}; for members that are already "
                "fitted, use cv='prefit'"
            )


class OutOfFold(NamedTuple):
    """Out-of-fold predictions of the members, with the true targets.

    Parameters
    ----------
    stacks : list of ndarrays of shape (n_members, n_samples, n_columns)
        One per output; class probabilities, or values of the targets. NaN for samples
        that no split holds out.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        True targets.
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions.
    sample_weight : ndarray of shape (n_samples,) or None
        Sample weights; None weights all samples equally.
    folds : ndarray of shape (n_samples,) or None, default=None
        Index of the last split that holds each sample out; -1 for none.
    """

    stacks: list[Float64]
    y: Any
    outputs: OutputSpec
    sample_weight: Float64 | None
    folds: Counts | None = None

    @property
    def n_members(self) -> int:
        """Number of members."""
        return len(self.stacks[0])

    @property
    def was_held_out(self) -> Any:
        """Mask of the samples with out-of-fold predictions, shape (n_samples,)."""
        return ~np.isnan(self.stacks[0]).all(axis=(0, 2))

    def subset(self, rows: Any) -> OutOfFold:
        """Subset of the samples, by a boolean mask or by indices.

        Returns the object itself for a mask that is all True.
        """
        if rows.dtype == bool and rows.all():
            return self
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        stacks = [stack[:, rows] for stack in self.stacks]
        folds = None if self.folds is None else self.folds[rows]
        return OutOfFold(stacks, np.asarray(self.y)[rows], self.outputs, weight, folds)


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
    for index, (_, test) in enumerate(splits):
        folds[test] = index
    return folds


def stack_folds(
    folds: Sequence[Sequence[Predictions]], splits: Sequence[Split], n_samples: int
) -> list[Float64]:
    """Stack out-of-fold predictions of all members, in the order of the samples.

    Parameters
    ----------
    folds : sequence of n_members sequences of n_splits Predictions
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
    for output, first in enumerate(folds[0][0]):
        stack = np.zeros((len(folds), n_samples, first.shape[1]))
        for member, member_folds in enumerate(folds):
            for (_, test), predictions in zip(splits, member_folds, strict=True):
                stack[member, test] += predictions[output]
        with np.errstate(invalid="ignore"):
            stack /= counts[:, None]
        stacks.append(stack)
    return stacks
