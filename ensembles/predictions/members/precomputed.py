"""Estimators whose answers are known already, for what wants to call an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from ensembles.predictions.members.outputs import Labels


class KnownClassifier(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are its ``X``, one array for each output.

    Parameters
    ----------
    labels : Labels
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    @property
    def classes_(self) -> Any:
        """As the labels are."""
        labels = self.labels
        return labels.classes if labels.several else labels.classes[0]

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KnownClassifier:
        """Nothing to learn."""
        return self

    def predict_proba(self, X: Any) -> Any:
        """What came in: for several outputs, columns side by side are parted again."""
        return self._parted(X) if self.labels.several else X

    def predict(self, X: Any) -> Any:
        """The most probable labels."""
        return self.labels.result(self._parted(X))

    def _parted(self, X: Any) -> list[Any]:
        ends = np.cumsum([len(classes) for classes in self.labels.classes])
        return np.split(np.asarray(X), ends[:-1], axis=1)


class KnownRegressor(RegressorMixin, BaseEstimator):
    """A regressor whose predictions are its ``X``.

    Parameters
    ----------
    several : bool
        Whether there are several targets.
    """

    def __init__(self, several: bool) -> None:
        self.several = several

    def fit(self, X: Any, y: Any = None) -> KnownRegressor:
        """Nothing to learn."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Any:
        """What came in."""
        return X if self.several else X[:, 0]
