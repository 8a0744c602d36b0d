"""Ensembles of the predictions in files, on the estimators of predictions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from ensembles._typing import Float64
from ensembles.predictions.classifier import EnsembleClassifier
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.fitting.weight_fitting import WeightSettings
from ensembles.predictions.forecasts.quantile_ensemble import QuantileEnsemble
from ensembles.predictions.forecasts.scores import weighted_interval_score
from ensembles.predictions.regressor import EnsembleRegressor
from ensembles.rules import RULES

RULES_BY_KIND = {
    "probabilities": "log_pool",
    "values": "mean",
    "quantiles": "quantile_mean",
}


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


class StackQuantileEnsemble(QuantileEnsemble):
    """Ensemble of the quantiles in a stack; ``X`` is a column of row indices.

    Parameters
    ----------
    stack : array of shape (n_members, n_rows, n_levels)
        Quantiles of the members; NaN in rows that a file lacks.
    levels : ndarray of shape (n_levels,)
        Sorted levels.
    scoring : IntervalScore
        Score of the ensemble; not used by ``fit``.
    rule, weights, rule_params, weights_params, crossing
        As in `QuantileEnsemble`.
    """

    def __init__(
        self,
        stack: Float64,
        levels: Any,
        *,
        scoring: Any,
        rule: Any = "quantile_mean",
        weights: Any = "convex",
        rule_params: Any = None,
        weights_params: Any = None,
        crossing: Any = "raise",
    ) -> None:
        super().__init__(
            levels,
            rule=rule,
            weights=weights,
            rule_params=rule_params,
            weights_params=weights_params,
            cv=2,  # its score is not used
            crossing=crossing,
        )
        self.stack = stack
        self.scoring = scoring

    @property
    def estimators_(self) -> list[Any]:
        """Members."""
        return _members(self.stack, None)

    def fit(self, X: Any, y: Any) -> StackQuantileEnsemble:  # type: ignore[override]
        """Learn the weights of the members."""
        super().fit(self._forecasts(X), y)
        return self

    def predict(self, X: Any) -> Any:
        """Quantiles of the ensemble."""
        return super().predict(self._forecasts(X)).reshape(len(X), -1)

    def _forecasts(self, X: Any) -> Float64:
        return np.asarray(self.stack[:, np.asarray(X)[:, 0]].transpose(1, 0, 2))


def make_ensemble(
    stack: Float64,
    kind: str,
    columns: Any,
    *,
    names: Sequence[str],
    **params: Any,
) -> Any:
    """Ensemble of members that return the rows of a stack.

    Parameters
    ----------
    stack : array of shape (n_members, n_rows, n_columns)
        Predictions of the members.
    kind : str
        Kind of the predictions.
    columns : ndarray of shape (n_columns,)
        Sorted classes, names of values, or levels of quantiles.
    names : sequence of str
        Names of the members.
    **params
        Parameters of `blend` for the ensemble. The ones that do not affect this kind
        must be None, or are ignored.

    Returns
    -------
    EnsembleClassifier, EnsembleRegressor or StackQuantileEnsemble
        Not fitted; ``X`` is a column of row indices.

    Raises
    ------
    ValueError
        If predictions of this kind cannot be combined, or a parameter does not apply.
    """
    if kind not in RULES_BY_KIND:
        raise ValueError(
            "files must have probabilities, values or quantiles to be blended, found "
            f"{kind}"
        )
    if params["rule"] is None:
        params["rule"] = RULES_BY_KIND[kind]
    crossing = params.pop("crossing")
    if kind == "probabilities":
        members = _named(names, _members(stack, columns))
        return _UnscoredClassifier(members, cv="prefit", keep_oof=False, **params)
    if params.pop("calibrate") is not None:
        raise ValueError(f"calibrate needs class probabilities, found {kind}")
    del params["thresholds"]
    if kind == "values":
        _check_rule(params["rule"])
        members = _named(names, _members(stack, None))
        return _UnscoredRegressor(members, cv="prefit", keep_oof=False, **params)
    if params["scoring"] is not None:
        raise ValueError(
            "scoring of quantiles must be None (no --metric): it is the weighted "
            "interval score"
        )
    del params["random_state"]
    params["scoring"] = IntervalScore(tuple(columns.tolist()))
    return StackQuantileEnsemble(stack, columns, crossing=crossing, **params)


def _check_rule(rule: Any) -> None:
    """Raise if a rule of probabilities or labels is used for values."""
    combiner = COMBINERS.get(rule) if isinstance(rule, str) else None
    if combiner is None or combiner.input == "values" or rule in RULES:
        return
    raise ValueError(
        f"rule {rule!r} combines {combiner.input}, and the files have values: save a "
        "column with the probability of each class, or use a rule of values, such as "
        "mean or median"
    )


def with_stack(ensemble: Any, stack: Float64) -> Any:
    """Fitted ensemble whose members return the rows of another stack.

    Parameters
    ----------
    ensemble : EnsembleClassifier, EnsembleRegressor or StackQuantileEnsemble
        Fitted ensemble of `make_ensemble`; left unchanged.
    stack : array of shape (n_members, n_rows, n_columns)
        Predictions of the same members, NaN where they are missing: such members are
        left out.

    Returns
    -------
    estimator
    """
    copied = copy.copy(ensemble)
    if isinstance(ensemble, StackQuantileEnsemble):
        copied.stack = stack
        return copied
    copied.estimators_ = _members(stack, getattr(ensemble, "classes_", None))
    copied.on_error = "drop"
    return copied


def _members(stack: Float64, classes: Any) -> list[Any]:
    if classes is None:
        return [StackRegressor(member) for member in stack]
    return [StackClassifier(member, classes) for member in stack]


def _named(names: Sequence[str], members: Sequence[Any]) -> list[tuple[str, Any]]:
    """Members with names that scikit-learn accepts.

    These do not contain ``__``, and are not those of parameters.
    """
    parameters = EnsembleClassifier([]).get_params(deep=False)
    valid: list[str] = []
    for index, name in enumerate(names):
        name = name.replace("__", "_")
        if name in parameters or name in valid:
            name = f"{index}: {name}"
        valid.append(name)
    return list(zip(valid, members, strict=True))
