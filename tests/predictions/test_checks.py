"""scikit-learn's own checks, for every estimator of this wing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensembles.predictions import (
    CascadeClassifier,
    EnsembleClassifier,
    EnsembleRegressor,
    EnsembleTransformer,
)
from ensembles.predictions.forecasts import QuantileEnsemble

CLASSIFIERS = [("lr", LogisticRegression()), ("nb", GaussianNB())]
REGRESSORS = [("ridge", Ridge()), ("tree", DecisionTreeRegressor(random_state=0))]
SCALERS = [("standard", StandardScaler()), ("minmax", MinMaxScaler())]

pytestmark = [
    # What the checks make up often has one member that no other can help.
    pytest.mark.filterwarnings("ignore:selection .* did not beat the best member"),
    # GaussianNB's own, of a class without weight.
    pytest.mark.filterwarnings("ignore:divide by zero encountered in log"),
]

ESTIMATORS: list[Any] = [
    EnsembleClassifier(CLASSIFIERS),
    EnsembleClassifier(CLASSIFIERS, rule="mean", weights=None),
    EnsembleClassifier(CLASSIFIERS, rule="vote", weights=[2, 1]),
    EnsembleClassifier(CLASSIFIERS, rule="mean", weights="greedy"),
    EnsembleClassifier(CLASSIFIERS, rule="rank_mean", weights=None),
    EnsembleClassifier(CLASSIFIERS, rule="mean", calibrate="temperature"),
    CascadeClassifier(CLASSIFIERS),
    CascadeClassifier(CLASSIFIERS, rule="mean", weights=None, margin="auto"),
    EnsembleRegressor(REGRESSORS),
    EnsembleRegressor(REGRESSORS, rule="median", weights=None),
    QuantileEnsemble(0.5),
    QuantileEnsemble(0.5, rule="quantile_mean"),
    QuantileEnsemble(0.5, rule="quantile_median", weights=None),
    EnsembleTransformer(SCALERS),
    EnsembleTransformer(SCALERS, rule="concatenate"),
    EnsembleTransformer(SCALERS, align="procrustes"),
    EnsembleTransformer(SCALERS, align="procrustes", normalize=True),
    EnsembleTransformer(SCALERS, rule="concatenate", n_components=1),
]


@parametrize_with_checks(ESTIMATORS)  # type: ignore[untyped-decorator]
def test_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [EnsembleClassifier(CLASSIFIERS, rule="mean", weights="greedy", scoring="mcc")]
)
def test_scikit_learn_checks_with_thresholds(
    estimator: Any, check: Callable[[Any], None]
) -> None:
    if "check_classifiers_train" in repr(check):
        # It requires that the most probable label is predicted. The other checks of
        # training are those of the same ensemble without thresholds.
        estimator = estimator.set_params(thresholds=None)
    check(estimator)
