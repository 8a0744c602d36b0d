"""Cross-validation splits, validated to have disjoint training and test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import check_cv

from ensembles._typing import Counts
from ensembles.predictions.members.fitting import Split

LIST_OF_SPLITS = "cv=list(splitter.split(X, y, groups))"


def make_splits(
    cv: Any,
    X: Any,
    y: Any,
    *,
    classes: bool,
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
    classes : bool
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
    splitter = check_cv(cv, y, classifier=classes)
    try:
        found = list(splitter.split(X, y, **params))
    except (ValueError, TypeError) as error:
        if not hasattr(splitter, "set_split_request") or "groups" in params:
            raise
        raise ValueError(
            f"cv={splitter!r} needs groups, found none ({error}); pass "
            f"{LIST_OF_SPLITS}, or fit(X, y, groups=groups) with metadata routing: "
            "sklearn.set_config(enable_metadata_routing=True)"
        ) from error
    if not found:
        raise ValueError(
            "cv must hold out samples to learn from, found no split; a generator is "
            "used up by one fit, a list is not: cv=list(splits)"
        )
    splits = [
        (_rows(train, len(y), place), _rows(test, len(y), place))
        for place, (train, test) in enumerate(found)
    ]
    if not may_overlap:
        _check_apart(splits)
    return splits


def _rows(part: Any, n_samples: int, place: int) -> Counts:
    """Convert a mask, a slice or indices to non-negative indices."""
    try:
        return np.asarray(np.arange(n_samples)[part])
    except IndexError as error:
        raise ValueError(
            f"cv must be splits of the {n_samples} rows given to fit, split {place} is "
            f"not: {error}"
        ) from None


def _check_apart(splits: Sequence[Split]) -> None:
    for place, (train, test) in enumerate(splits):
        shared = np.intersect1d(train, test)
        if len(shared):
            raise ValueError(
                "cv must hold out rows that members are not fitted on: split "
                f"{place} has {len(shared)} of its {len(np.unique(test))} test rows "
                f"among its training rows, row {shared[0]} first; for members that are "
                "fitted already there is cv='prefit'"
            )
