"""Labels as indices of the columns of class probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Counts


def column_indices(y: Any, classes: Any, n_columns: int) -> Counts:
    """Column of each true label.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.
    classes : array-like of shape (n_columns,) or None
        Labels of the columns; None takes the sorted labels of ``y``.
    n_columns : int
        Number of columns of the predictions.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If the number of labels is not that of the columns, or a label is unknown.
    """
    labels = np.unique(np.asarray(y)) if classes is None else np.asarray(classes)
    if labels.ndim != 1 or len(labels) != n_columns:
        found = f"{n_columns} columns and the labels {labels.tolist()}"
        raise ValueError(
            f"predictions must have one column for each label: found {found}; pass "
            "classes= with all labels in the order of the columns"
        )
    order = np.argsort(labels, kind="stable")
    positions = np.searchsorted(labels, y, sorter=order).clip(max=n_columns - 1)
    codes = order[positions]
    is_unknown = labels[codes] != np.asarray(y)
    if is_unknown.any():
        raise ValueError(
            f"labels of y must be among the classes {labels.tolist()}: found "
            f"{np.asarray(y)[is_unknown].tolist()[0]!r}"
        )
    return np.asarray(codes, np.int64)
