"""Cross-validation splits of rows, by groups and in the order of time."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from ensembles._typing import Counts
from ensembles.predictions.members.out_of_fold import Split, make_splits

DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}.*)?$")


def judging_splits(
    y: Any,
    *,
    cv: Any,
    groups: Any = None,
    time: Any = None,
    classifier: bool,
) -> list[Split]:
    """Splits into rows that weights are learned from, and rows that judge them.

    Parameters
    ----------
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        True targets.
    cv : int, splitter or iterable of splits
        As in `sklearn.model_selection.check_cv`; with ``groups`` or ``time`` a number
        of folds.
    groups : array-like of shape (n_rows,) or None, default=None
        Group of each row; all rows of a group are in the same part of a split. None
        means that each row is a group.
    time : array-like of shape (n_rows,) or None, default=None
        Numbers or dates that sort as text, such as 2024-11-23. Each fold is judged with
        weights learned from earlier times only, and the earliest rows judge no weights.
        None means that the order of the rows has no meaning.
    classifier : bool
        Whether folds are stratified by class.

    Returns
    -------
    list of (train, test)
        Row indices.

    Raises
    ------
    ValueError
        If there are too few groups or times for the folds, or ``cv`` is invalid.
    """
    rows = np.zeros((len(y), 1))
    if groups is None and time is None:
        return make_splits(cv, rows, y, classifier=classifier, params={})
    n_folds = _n_folds(cv)
    if time is not None:
        return _by_time(np.asarray(time), groups, n_folds)
    n_groups = len(np.unique(groups))
    if n_groups < n_folds:
        raise ValueError(
            f"groups must have at least {n_folds} values for {n_folds} folds: found "
            f"{n_groups}; pass cv={max(n_groups, 2)} (--cv {max(n_groups, 2)})"
        )
    splitter = StratifiedGroupKFold(n_folds) if classifier else GroupKFold(n_folds)
    return make_splits(
        splitter, rows, y, classifier=classifier, params={"groups": groups}
    )


def as_times(texts: Any) -> Any:
    """Times that can be compared, from text.

    Parameters
    ----------
    texts : array-like of shape (n_rows,), of str
        Numbers, or dates such as 2024-11-23, with or without a time.

    Returns
    -------
    ndarray of shape (n_rows,)
        float64, or datetime64.

    Raises
    ------
    ValueError
        If a time is neither, or is missing.
    """
    values = np.asarray(["" if text is None else text for text in texts], dtype=str)
    for dtype in (np.float64, "datetime64[us]"):
        with suppress(ValueError):
            times: Any = values.astype(dtype)
            if not np.isnan(times).any() and "" not in values:
                return times
    invalid = next((text for text in values if not DATE.match(text)), values[0])
    raise ValueError(
        "times must be numbers or dates such as 2024-11-23 or 2024-11-23 18:00: found "
        f"{str(invalid)!r}"
    )


def _n_folds(cv: Any) -> int:
    if isinstance(cv, bool) or not isinstance(cv, int | np.integer) or cv < 2:
        raise ValueError(
            "cv must be a number of folds, at least 2, to divide rows by groups or "
            f"time: found {cv!r}"
        )
    return int(cv)


def _by_time(time: Any, groups: Any, n_folds: int) -> list[Split]:
    """Expanding windows: blocks of times, each with all earlier rows for training."""
    times, codes, counts = np.unique(time, return_inverse=True, return_counts=True)
    if len(times) <= n_folds:
        n_possible = max(len(times) - 1, 2)
        raise ValueError(
            f"time must have at least {n_folds + 1} values for {n_folds} folds and the "
            f"earliest rows, which only train: found {len(times)}; pass "
            f"cv={n_possible} (--cv {n_possible})"
        )
    block = _blocks(counts, n_folds + 1)[codes]
    splits = []
    for fold in range(1, n_folds + 1):
        train, test = np.flatnonzero(block < fold), np.flatnonzero(block == fold)
        if groups is not None:
            labels = np.asarray(groups)
            train = train[~np.isin(labels[train], labels[test])]
        if not len(train):
            raise ValueError(
                f"fold {fold} of {n_folds} has no earlier rows of other groups to "
                "learn weights from; pass fewer folds (--cv), or leave out the groups"
            )
        splits.append((train, test))
    return splits


def _blocks(counts: Counts, n_blocks: int) -> Counts:
    """Block of each time, in order, with about the same number of rows each."""
    middles = np.cumsum(counts) - counts / 2
    blocks = np.floor(middles * n_blocks / counts.sum()).astype(np.int64)
    # Without empty blocks, also if a single time has most of the rows: from one time to
    # the next the block increases by at most 1, and the last block is reached.
    positions = np.arange(len(counts))
    blocks = positions + np.minimum.accumulate(blocks - blocks[0] - positions)
    return np.maximum(blocks, positions - (len(counts) - n_blocks))
