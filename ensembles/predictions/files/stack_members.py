"""Estimators that return the predictions of a file, so that ensembles can use them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from ensembles._typing import Float64
from ensembles.predictions.classifier import EnsembleClassifier
from ensembles.predictions.fitting.weight_fitting import WeightSettings
from ensembles.predictions.forecasts.scores import weighted_interval_score
from ensembles.predictions.regressor import EnsembleRegressor


class _StackMember(BaseEstimator):
    """Base class of the members; ``X`` is a column of row indices.

    Parameters
    ----------
    predictions : array of shape (n_rows, n_columns)
        Predictions of the member; NaN in rows that its file lacks.
    """

    def __init__(self, predictions: Float64) -> None:
        self.predictions = predictions

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _rows(self, X: Any) -> Float64:
        rows = np.asarray(self.predictions[np.asarray(X)[:, 0]])
        if np.isnan(rows).any():
            raise LookupError("its file lacks some of these rows")
        return rows


class StackRegressor(RegressorMixin, _StackMember):
    """Regressor that returns the values or quantiles of a file."""

    def fit(self, X: Any, y: Any = None) -> StackRegressor:
        """Return the member; there is nothing to fit."""
        return self

    def predict(self, X: Any) -> Any:
        """Values of the rows, 1-D for a single column."""
        rows = self._rows(X)
        return rows[:, 0] if rows.shape[1] == 1 else rows


class StackClassifier(ClassifierMixin, _StackMember):
    """Classifier that returns the class probabilities of a file.

    Parameters
    ----------
    predictions : array of shape (n_rows, n_classes)
        Probabilities of the member; NaN in rows that its file lacks.
    classes : ndarray of shape (n_classes,)
        Sorted labels of the classes.
    """

    def __init__(self, predictions: Float64, classes: Any) -> None:
        super().__init__(predictions)
        self.classes = classes

    @property
    def classes_(self) -> Any:
        """Sorted labels of the classes."""
        return self.classes

    def fit(self, X: Any, y: Any = None) -> StackClassifier:
        """Return the member; there is nothing to fit."""
        return self

    def predict_proba(self, X: Any) -> Any:
        """Class probabilities of the rows."""
        return self._rows(X)

    def predict(self, X: Any) -> Any:
        """Most probable labels of the rows."""
        return self.classes[self._rows(X).argmax(axis=1)]


class _Unscored:
    """Mixin of ensembles whose weights are judged later, not in ``fit``."""

    def _check_parameters(self, *arguments: Any) -> WeightSettings:
        settings: WeightSettings = super()._check_parameters(*arguments)  # type: ignore[misc]
        return settings._replace(cross_fit=False)


class _UnscoredClassifier(_Unscored, EnsembleClassifier):
    """Classifier without ``oof_score_``."""


class _UnscoredRegressor(_Unscored, EnsembleRegressor):
    """Regressor without ``oof_score_``."""


@dataclass(frozen=True)
class IntervalScore:
    """Scorer of quantiles: the negative mean weighted interval score.

    Parameters
    ----------
    levels : tuple of float
        Levels of the predicted quantiles, in ascending order.
    """

    levels: tuple[float, ...]

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Score of the quantiles that an estimator predicts for ``X``."""
        scores = weighted_interval_score(y, estimator.predict(X), self.levels)
        return -float(np.mean(scores))


def stack_ensemble(
    stack: Float64, names: Sequence[str], classes: Any, **params: Any
) -> Any:
    """Ensemble of members that return the rows of a stack.

    Parameters
    ----------
    stack : array of shape (n_members, n_rows, n_columns)
        Predictions of the members.
    names : sequence of str
        Names of the members.
    classes : ndarray of shape (n_classes,) or None
        Sorted classes of the columns; None for values and quantiles.
    **params
        Parameters of the ensemble; without classes, ``calibrate`` is an error and
        ``thresholds`` is ignored.

    Returns
    -------
    EnsembleClassifier or EnsembleRegressor
        Not fitted; ``X`` is a column of row indices.
    """
    members = list(zip(_valid_names(names), _members(stack, classes), strict=True))
    if classes is not None:
        return _UnscoredClassifier(members, cv="prefit", keep_oof=False, **params)
    params.pop("thresholds", None)
    if params.pop("calibrate", None) is not None:
        raise ValueError("calibrate needs class probabilities, found other predictions")
    return _UnscoredRegressor(members, cv="prefit", keep_oof=False, **params)


def with_stack(ensemble: Any, stack: Float64) -> Any:
    """Fitted ensemble whose members return the rows of another stack.

    Parameters
    ----------
    ensemble : EnsembleClassifier or EnsembleRegressor
        Fitted ensemble of `stack_ensemble`; left unchanged.
    stack : array of shape (n_members, n_rows, n_columns)
        Predictions of the same members, NaN where they are missing: such members are
        left out.

    Returns
    -------
    EnsembleClassifier or EnsembleRegressor
    """
    copied = copy.copy(ensemble)
    copied.estimators_ = _members(stack, getattr(ensemble, "classes_", None))
    copied.on_error = "drop"
    return copied


def _members(stack: Float64, classes: Any) -> list[Any]:
    if classes is None:
        return [StackRegressor(member) for member in stack]
    return [StackClassifier(member, classes) for member in stack]


def _valid_names(names: Sequence[str]) -> list[str]:
    """Names that scikit-learn accepts: without ``__``, and not those of parameters."""
    parameters = EnsembleClassifier([]).get_params(deep=False)
    valid: list[str] = []
    for index, name in enumerate(names):
        name = name.replace("__", "_")
        if name in parameters or name in valid:
            name = f"{index}: {name}"
        valid.append(name)
    return valid
