"""Estimators that return precomputed predictions, for scikit-learn's scorers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from ensembles.predictions.members.outputs import ClassOutputs


class PrecomputedClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that returns its input ``X`` as probabilities.

    ``X`` has one column per class; with several outputs, their columns side by side.

    Parameters
    ----------
    outputs : ClassOutputs
        Classes of the columns.
    """

    def __init__(self, outputs: ClassOutputs) -> None:
        self.outputs = outputs

    @property
    def classes_(self) -> Any:
        """Sorted classes; a list of arrays for several targets."""
        classes = self.outputs.classes
        return classes if self.outputs.multioutput else classes[0]

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None
    ) -> PrecomputedClassifier:
        """Return the estimator; there are no parameters to fit."""
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return ``X``; for several outputs, split into a list of arrays."""
        return self._split(X) if self.outputs.multioutput else X

    def predict(self, X: Any) -> Any:
        """Labels with the highest probability in ``X``."""
        return self.outputs.to_targets(self._split(X))

    def _split(self, X: Any) -> list[Any]:
        ends = np.cumsum([len(classes) for classes in self.outputs.classes])
        return np.split(np.asarray(X), ends[:-1], axis=1)


class PrecomputedRegressor(RegressorMixin, BaseEstimator):
    """A regressor that returns its input ``X`` as predictions.

    Parameters
    ----------
    multioutput : bool
        Whether there are several targets; otherwise the first column is returned.
    """

    def __init__(self, multioutput: bool) -> None:
        self.multioutput = multioutput

    def fit(self, X: Any, y: Any = None) -> PrecomputedRegressor:
        """Return the estimator; there are no parameters to fit."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Any:
        """Return ``X``, or its first column for a single target."""
        return X if self.multioutput else X[:, 0]
