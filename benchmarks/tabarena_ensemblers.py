"""Ensemblers for TabArena's simulation: our selections, and our pools.

TabArena fits an ensembler on the predictions of a task's models, by its metric. Pass a
class of this module, with its parameters, to the simulation:

    repo.evaluate_ensemble(
        dataset, fold,
        ensemble_kwargs={
            "ensembler_cls": PoolEnsembler,
            "ensembler_kwargs": {"weights": "free"},
            "use_fast_metrics": False,  # a pool needs the probabilities of all classes
        },
    )
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from columns import column_members, columns
from tabarena.simulation.ensemble import AbstractEnsembler, WeightedEnsembler

from ensembles.predictions import EnsembleClassifier, EnsembleRegressor
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import run_selection

CLASSIFICATION = ("binary", "multiclass")


class SelectionEnsembler(WeightedEnsembler):
    """Weighted sum, with the weights of one of our selections for the task's metric.

    Parameters
    ----------
    problem_type : str
        Type of the problem, as TabArena passes it.
    metric : autogluon.core.metrics.Scorer
        Metric of the task.
    selection : str, default="greedy"
        Name in `ensembles.selection.SELECTIONS`.
    **params
        Parameters of the selection, e.g. ``n_bags=20``.
    """

    def __init__(
        self,
        *,
        problem_type: str,
        metric: Any,
        selection: str = "greedy",
        **params: Any,
    ) -> None:
        super().__init__(problem_type=problem_type, metric=metric)
        self.selection = selection
        self.params = params

    def _fit(
        self, *, predictions: Any, labels: Any, time_limit: float | None = None
    ) -> None:
        stack = np.asarray(predictions)

        def score(weights: Any) -> float:
            combined = np.tensordot(weights / weights.sum(), stack, 1)
            return -float(self._score_error(labels, combined))

        chosen = run_selection(
            SELECTIONS[self.selection], len(stack), score, **self.params
        )
        self.weights_ = chosen.weights / chosen.weights.sum()


class PoolEnsembler(AbstractEnsembler):
    """`EnsembleClassifier` or `EnsembleRegressor`, by default without parameters.

    The default of the classifier is a log-linear pool with one weight per model and one
    intercept per class; that of the regressor is a mean with convex weights.

    Parameters
    ----------
    problem_type : str
        Type of the problem, as TabArena passes it.
    metric : autogluon.core.metrics.Scorer
        Metric of the task; the pool minimizes the log-loss or the squared error.
    **params
        Parameters of the estimator, e.g. ``weights="free"``.
    """

    linear = False

    def __init__(self, *, problem_type: str, metric: Any, **params: Any) -> None:
        super().__init__(problem_type=problem_type, metric=metric)
        if problem_type not in (*CLASSIFICATION, "regression"):
            raise ValueError(
                "problem_type must be 'binary', 'multiclass' or 'regression', found "
                f"{problem_type!r}"
            )
        self.params = params

    def _fit(
        self, *, predictions: Any, labels: Any, time_limit: float | None = None
    ) -> None:
        stack = self._stack(predictions)
        is_classifier = self.problem_type in CLASSIFICATION
        estimator = EnsembleClassifier if is_classifier else EnsembleRegressor
        names = [f"model {index}" for index in range(len(stack))]
        n_classes = stack.shape[2] if is_classifier else None
        members = column_members(names, n_classes)
        self.ensemble_ = estimator(members, cv="prefit", **self.params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # predictions are held out, by TabArena
            self.ensemble_.fit(columns(stack), np.asarray(labels))

    def predict_proba(self, predictions: Any) -> Any:
        """Combined predictions, in the format of the models' predictions."""
        X = columns(self._stack(predictions))
        if self.problem_type == "regression":
            return self.ensemble_.predict(X)
        y_proba = self.ensemble_.predict_proba(X)
        return y_proba[:, 1] if self.problem_type == "binary" else y_proba

    def models_used(self) -> Any:
        """Mask of the models with a weight other than zero."""
        return np.asarray(self.ensemble_.weights_) != 0

    def _stack(self, predictions: Any) -> Any:
        """Predictions of shape (n_models, n_samples, n_columns)."""
        stack = np.asarray(predictions, np.float64)
        if self.problem_type == "binary":
            return np.stack([1 - stack, stack], axis=2)
        return stack if stack.ndim == 3 else stack[..., None]
