"""scikit-learn's own checks, for soups around estimators of every type."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensembles.checkpoints import ModelSoup

SOUPS = [
    ModelSoup(SGDClassifier(), n_members=3),
    ModelSoup(SGDClassifier(), weights="greedy_soup", n_members=2),
    ModelSoup(LogisticRegression(), n_members=2),
    ModelSoup(MLPClassifier(max_iter=30), n_members=2),
    ModelSoup(SGDRegressor(), n_members=3, rule="median"),
    ModelSoup(Ridge(), n_members=1),
    ModelSoup(MLPRegressor(max_iter=30), n_members=2),
    ModelSoup(StandardScaler(), n_members=2),
    ModelSoup(MaxAbsScaler(), n_members=1),
]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(SOUPS)  # type: ignore[untyped-decorator]
def test_scikit_learns_checks_pass(estimator: Any, check: Any) -> None:
    check(estimator)
