"""Targets as they are given, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, column_or_1d

from ensembles.predictions.members.columns import known_classes
from ensembles.predictions.members.outputs import Labels, Values

POLICIES = ("error", "zero")


def labels_of(
    y: Any, members: Sequence[tuple[str, Any]], *, voting: bool, missing: str
) -> tuple[Labels, Any]:
    """Labels of targets and of members that are fitted already, and clean targets.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_samples,) or (n_samples, n_outputs)
    members : sequence of (name, fitted classifier)
        May know classes that ``y`` lacks.
    voting : bool
    missing : {"error", "zero"}

    Returns
    -------
    labels : Labels
    y : ndarray

    Raises
    ------
    ValueError
        If the targets are no classes, or a member's are of another kind.
    """
    if missing not in POLICIES:
        raise ValueError(f"missing_class must be 'error' or 'zero', found {missing!r}")
    if np.asarray(y).dtype.kind == "f":
        assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    several = kind in ("multilabel-indicator", "multiclass-multioutput")
    if several:
        y = check_array(y, dtype=None, accept_sparse=True)
        y = y.toarray() if hasattr(y, "toarray") else y
    else:
        y = column_or_1d(y, warn=True)
    # Two labels of other names, as -1 and 1, are a matter of two classes each.
    indicator = kind == "multilabel-indicator" and bool(np.isin(y, (0, 1)).all())
    if indicator:  # also where one of them is lacking
        classes = [np.array([0, 1], y.dtype)] * y.shape[1]
    else:
        classes = [np.unique(column) for column in y.reshape(len(y), -1).T]
    for name, member in members:
        found = known_classes(member, several=several, indicator=indicator)
        for place, known in enumerate(found or []):
            if place < len(classes):  # the member's own check tells of more
                classes[place] = _union(name, classes[place], known)
    return Labels(classes, several, indicator, voting, missing), y


def _union(name: str, classes: Any, known: Any) -> Any:
    if (known.dtype.kind in "OUS") != (classes.dtype.kind in "OUS"):
        raise ValueError(
            f"classes of member {name!r} must be of the kind of y's, found "
            f"{known.tolist()[:3]} and {classes.tolist()[:3]}"
        )
    return np.union1d(classes, known)


def values_of(y: Any, *, quantiles: bool) -> tuple[Values, Any]:
    """What is known of numbers, and the numbers clean.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    quantiles : bool
        Whether members answer by columns of quantiles.

    Returns
    -------
    values : Values
    y : ndarray

    Raises
    ------
    ValueError
        If the targets are no finite numbers, or several with quantiles.
    """
    y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    several = y.ndim == 2 and y.shape[1] > 1
    if not several:
        y = column_or_1d(y, warn=True)
    if not quantiles:
        return Values(several, y.shape[1] if several else 1), y
    if several:
        raise ValueError(
            f"quantiles must be of one target, found {y.shape[1]} targets; combine "
            "each by an ensemble of its own"
        )
    return Values(several=True, width=None), y
