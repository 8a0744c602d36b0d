"""Members whose predictions are the columns of X, for ensembles of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.frozen import FrozenEstimator


def columns(stack: Any) -> Any:
    """Matrix of the predictions, of shape (n_rows, n_members * n_columns).

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_rows, n_columns)
        Class probabilities, or values in one column.
    """
    return np.moveaxis(np.asarray(stack), 0, 1).reshape(stack.shape[1], -1)


def column_members(
    names: Sequence[str], n_classes: int | None = None
) -> list[tuple[str, Any]]:
    """Fitted members that return their part of X; regressors without ``n_classes``."""
    kind: Any = ColumnRegressor if n_classes is None else ColumnClassifier
    n_members, members = len(names), []
    for index, name in enumerate(names):
        member = kind(index, n_members)
        if n_classes is not None:
            member.classes_ = np.arange(n_classes)
        member.n_features_in_ = n_members * (n_classes or 1)
        members.append((name, FrozenEstimator(member)))
    return members


class Column(BaseEstimator):
    """A member whose predictions are a part of the features.

    Parameters
    ----------
    index : int
        Index of the member.
    n_members : int
        Number of members.
    """

    def __init__(self, index: int, n_members: int) -> None:
        self.index = index
        self.n_members = n_members

    def fit(self, X: Any, y: Any) -> Column:
        """Learn nothing; scikit-learn requires the method."""
        return self

    def _columns(self, X: Any) -> Any:
        return np.asarray(X).reshape(len(X), self.n_members, -1)[:, self.index]


class ColumnClassifier(ClassifierMixin, Column):
    """A classifier whose probabilities are a part of the features."""

    classes_: Any

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of this member."""
        return self._columns(X)

    def predict(self, X: Any) -> Any:
        """The most probable class."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class ColumnRegressor(RegressorMixin, Column):
    """A regressor whose predictions are a column of the features."""

    def predict(self, X: Any) -> Any:
        """Values of this member."""
        return self._columns(X)[:, 0]
