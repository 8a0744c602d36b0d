"""Validation of the targets, and the prediction formats that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, column_or_1d

from ensembles.predictions.members.columns import member_classes
from ensembles.predictions.members.outputs import ClassOutputs, RegressionOutputs

POLICIES = ("error", "zero")


def check_class_targets(
    y: Any, members: Sequence[tuple[str, Any]], *, voting: bool, missing: str
) -> tuple[ClassOutputs, Any]:
    """Validate classification targets and collect their classes.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_samples,) or (n_samples, n_outputs)
        Labels, or a multilabel indicator matrix.
    members : sequence of (name, fitted classifier)
        Members fitted before; their classes are added to the classes of ``y``.
    voting : bool
        Whether the members vote by ``predict``; stored in the result.
    missing : {"error", "zero"}
        How to handle a member that lacks a class; stored in the result.

    Returns
    -------
    labels : ClassOutputs
        Sorted classes and the kind of the targets.
    y : ndarray
        Dense labels, of shape (n_samples,) or (n_samples, n_outputs).

    Raises
    ------
    ValueError
        If the targets are not classes, are not finite, or if strings and numbers are
        mixed between the classes of ``y`` and of a member.
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
    # Columns of other labels, e.g. -1 and 1, are multi-output with two classes each.
    indicator = kind == "multilabel-indicator" and bool(np.isin(y, (0, 1)).all())
    if indicator:  # 0 and 1 even if a column lacks one of them
        classes = [np.array([0, 1], y.dtype)] * y.shape[1]
    else:
        classes = [np.unique(column) for column in y.reshape(len(y), -1).T]
    for name, member in members:
        found = member_classes(member, several=several, indicator=indicator)
        for place, known in enumerate(found or []):
            if place < len(classes):  # Labels.check reports a surplus
                classes[place] = _union(name, classes[place], known)
    return ClassOutputs(classes, several, indicator, voting, missing), y


def _union(name: str, classes: Any, known: Any) -> Any:
    if (known.dtype.kind in "OUS") != (classes.dtype.kind in "OUS"):
        raise ValueError(
            f"classes of member {name!r} must be of the kind of y's, found "
            f"{known.tolist()[:3]} and {classes.tolist()[:3]}"
        )
    return np.union1d(classes, known)


def check_regression_targets(
    y: Any, *, quantiles: bool
) -> tuple[RegressionOutputs, Any]:
    """Validate regression targets.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Finite numbers.
    quantiles : bool
        Whether members predict one column per quantile of a single target.

    Returns
    -------
    values : RegressionOutputs
        Number and shape of the predicted columns.
    y : ndarray
        Validated targets; a single column is flattened to shape (n_samples,).

    Raises
    ------
    ValueError
        If the targets are not finite numbers, or if there are several targets and
        ``quantiles`` is true.
    """
    y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    several = y.ndim == 2 and y.shape[1] > 1
    if not several:
        y = column_or_1d(y, warn=True)
    if not quantiles:
        return RegressionOutputs(several, y.shape[1] if several else 1), y
    if several:
        raise ValueError(
            f"quantiles must be of one target, found {y.shape[1]} targets; combine "
            "each by an ensemble of its own"
        )
    return RegressionOutputs(several=True, width=None), y
