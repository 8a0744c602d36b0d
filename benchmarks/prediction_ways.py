"""Ways to combine predictions, each an estimator that takes named members."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.ensemble import (
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import cross_val_predict

from ensembles.predictions import EnsembleClassifier, EnsembleRegressor
from ensembles.predictions.fitting import log_pool_weights

Way = Callable[..., Any]
BEST, DEFAULT = "best single", "ours, default"
STACKING = "StackingClassifier"


class BestSingle(BaseEstimator):
    """The member that predicts best out of fold, fitted on all of the data.

    Parameters
    ----------
    estimators : list of (str, estimator)
    """

    def __init__(self, estimators: Any) -> None:
        self.estimators = estimators

    def fit(self, X: Any, y: Any) -> BestSingle:
        """Choose by log-loss or squared error in five folds."""
        answer, loss = "predict", mean_squared_error
        if is_classifier(self.estimators[0][1]):
            answer, loss = "predict_proba", log_loss
        losses = [
            loss(y, cross_val_predict(member, X, y, method=answer))
            for _, member in self.estimators
        ]
        self.best_ = clone(self.estimators[int(np.argmin(losses))][1]).fit(X, y)
        return self

    def predict(self, X: Any) -> Any:
        """As the member."""
        return self.best_.predict(X)

    def predict_proba(self, X: Any) -> Any:
        """As the member."""
        return self.best_.predict_proba(X)


class WithoutPrior(EnsembleClassifier):
    """The default without intercepts, and with one ridge for any number of members."""

    def fit(self, X: Any, y: Any) -> Any:
        """Fit with intercepts held at zero."""
        kept = log_pool_weights.INTERCEPT_RIDGE, log_pool_weights.RIDGE_PER_MEMBER
        log_pool_weights.INTERCEPT_RIDGE, log_pool_weights.RIDGE_PER_MEMBER = 1e12, 0.0
        try:
            return super().fit(X, y)
        finally:
            log_pool_weights.INTERCEPT_RIDGE, log_pool_weights.RIDGE_PER_MEMBER = kept


def _classes(rule: str, weights: Any = None, **params: Any) -> Way:
    return partial(EnsembleClassifier, rule=rule, weights=weights, **params)


def _values(rule: str, weights: Any = None, **params: Any) -> Way:
    return partial(EnsembleRegressor, rule=rule, weights=weights, **params)


CLASSES: dict[str, Way] = {
    BEST: BestSingle,
    "VotingClassifier, soft": partial(VotingClassifier, voting="soft"),
    "VotingClassifier, hard": partial(VotingClassifier, voting="hard"),
    STACKING: StackingClassifier,
    "ours, mean": _classes("mean"),
    "ours, median": _classes("median"),
    "ours, geometric_mean": _classes("geometric_mean"),
    "ours, vote": _classes("vote"),
    "ours, borda": _classes("borda"),
    "ours, rank_mean": _classes("rank_mean"),
    "ours, mean, greedy": _classes("mean", "greedy"),
    "ours, mean, convex": _classes("mean", "convex"),
    "ours, mean, temperature": _classes("mean", calibrate="temperature"),
    "ours, log_pool, convex": _classes("log_pool", "convex"),
    "ours, log_pool, free": _classes("log_pool", "free"),
    "ours, without the prior": WithoutPrior,
    DEFAULT: EnsembleClassifier,
}
VALUES: dict[str, Way] = {
    BEST: BestSingle,
    "VotingRegressor": VotingRegressor,
    "StackingRegressor": StackingRegressor,
    "ours, mean": _values("mean"),
    "ours, median": _values("median"),
    "ours, trimmed_mean": _values("trimmed_mean"),
    "ours, mean, greedy": _values("mean", "greedy"),
    "ours, mean, convex": _values("mean", "convex"),
    DEFAULT: EnsembleRegressor,
}
SCORES = ("ours, vote", "ours, borda", "ours, rank_mean")  # these are no probabilities
LEARNED = (
    "ours, mean, greedy",
    "ours, mean, convex",
    "ours, log_pool, convex",
    "ours, log_pool, free",
    STACKING,
)


def leaked(way: str, members: Any) -> Any:
    """The same way on fitted members, with weights learned on the training data."""
    return CLASSES[way](members, cv="prefit")
