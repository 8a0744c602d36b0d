"""Classifiers with a decision function and no probabilities, in ensembles of both."""

from __future__ import annotations

import pickle
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LogisticRegression,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from ensembles.predictions import EnsembleClassifier
from ensembles.predictions.members.adapters import decision_values
from tests.predictions.doubles import Counting

Data = tuple[Any, Any]
LR = ("lr", LogisticRegression(max_iter=500))
DECIDING = [
    LinearSVC(),
    make_pipeline(StandardScaler(), LinearSVC()),
    RidgeClassifier(),
    SGDClassifier(loss="hinge", random_state=0),
    SVC(),
    SVC(decision_function_shape="ovo"),
    GridSearchCV(LinearSVC(), {"C": [0.1, 1]}, cv=2),
]

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


@pytest.fixture(params=[2, 4])
def some(request: pytest.FixtureRequest) -> Data:
    X, y = make_classification(
        300, 8, n_informative=6, n_classes=request.param, random_state=0
    )
    return X, np.array(["a", "b", "c", "d"])[y]


@pytest.mark.parametrize("member", DECIDING, ids=repr)
@pytest.mark.parametrize(
    ("rule", "weights"), [("log_pool", "convex"), ("mean", None), ("vote", None)]
)
def test_decision_values_become_probabilities_out_of_fold(
    rule: str, weights: Any, member: Any, some: Data
) -> None:
    X, y = some
    train, test = slice(0, 200), slice(200, 300)
    ensemble = EnsembleClassifier([("d", member), LR], rule=rule, weights=weights)
    ensemble.fit(X[train], y[train])
    alone = EnsembleClassifier([("d", member)], rule="vote", weights=None)
    accuracy = alone.fit(X[train], y[train]).score(X[test], y[test])
    assert ensemble.score(X[test], y[test]) > accuracy - 0.1
    shares = ensemble.predict_proba(X[test])
    assert shares.sum(axis=1) == pytest.approx(1)
    if weights == "convex":
        chance = -np.log(len(ensemble.classes_))
        assert ensemble.scores_[0] > chance
        held = -log_loss(y[test], ensemble.estimators_[0].predict_proba(X[test]))
        assert held > chance


def test_the_order_of_a_members_decisions_is_kept() -> None:
    X, y = make_classification(300, 8, n_informative=6, random_state=0)
    ensemble = EnsembleClassifier([("d", LinearSVC())], rule="mean", weights=None)
    shares = ensemble.fit(X, y).predict_proba(X)[:, 1]
    order = np.argsort(LinearSVC().fit(X, y).decision_function(X))
    assert (np.diff(shares[order]) >= 0).all()
    assert hasattr(ensemble.estimators_[0], "coef_")
    assert pickle.loads(pickle.dumps(ensemble)).predict(X).tolist()


def test_members_with_probabilities_are_not_fitted_in_folds_for_it() -> None:
    X, y = make_classification(100, 8, random_state=0)
    Counting.fits.clear()
    members = [("d", LinearSVC()), ("nb", Counting(label="nb"))]
    EnsembleClassifier(members, rule="mean", weights=None).fit(X, y)
    assert Counting.fits == {"nb": 1}


@pytest.mark.filterwarnings("ignore:weights and calibration are learned from")
def test_fitted_members_with_decisions_learn_from_the_data_given() -> None:
    X, y = make_classification(300, 8, n_informative=6, random_state=0)
    svc = LinearSVC().fit(X[:100], y[:100])
    members = [("d", svc), ("lr", LogisticRegression().fit(X[:100], y[:100]))]
    ensemble = EnsembleClassifier(members, cv="prefit").fit(X[100:], y[100:])
    assert ensemble.score(X, y) > 0.7
    frozen = [("d", FrozenEstimator(svc)), LR]
    assert EnsembleClassifier(frozen, weights=None).fit(X, y).score(X, y) > 0.7


def test_a_fold_may_lack_a_class_that_is_decided() -> None:
    X, y = make_classification(150, 8, n_informative=6, n_classes=3, random_state=0)
    order = np.argsort(y, kind="stable")
    members = [("d", LinearSVC()), LR]
    ensemble = EnsembleClassifier(members, cv=KFold(3)).fit(X[order], y[order])
    assert ensemble.predict_proba(X).shape == (150, 3)


class Deciding(GaussianNB):
    """Says log odds; its fit does not depend on the scale of weights."""

    predict_proba = property()  # there is none

    def decision_function(self, X: Any) -> Any:
        return np.subtract(*self.predict_joint_log_proba(X).T[::-1])


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_the_scale_of_sample_weights_does_not_flatten_probabilities(
    scale: float,
) -> None:
    X, y = make_classification(200, 8, n_informative=6, random_state=0)
    ensemble = EnsembleClassifier([("d", Deciding())], rule="mean", weights=None)
    weight = np.where(y == 0, 0.5, 1.5)
    plain = ensemble.fit(X, y, sample_weight=weight).predict_proba(X)
    scaled = ensemble.fit(X, y, sample_weight=weight * scale).predict_proba(X)
    assert scaled == pytest.approx(plain, abs=0.05)


def test_several_targets_need_probabilities() -> None:
    X, Y = make_multilabel_classification(60, 5, n_classes=3, random_state=0)
    ensemble = EnsembleClassifier([("d", OneVsRestClassifier(LinearSVC()))])
    with pytest.raises(ValueError, match="must have predict_proba for this rule"):
        ensemble.fit(X, Y)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("n_known", [2, 3, 4])
def test_pairs_of_classes_keep_their_places_where_a_fold_lacks_some(
    n_known: int, nested: bool
) -> None:
    X, y = make_classification(
        300, 8, n_informative=6, n_classes=5, n_clusters_per_class=1, random_state=0
    )
    classes, kept = np.arange(5), np.array([0, 2, 3, 4])[:n_known]
    member: Any = SVC(decision_function_shape="ovo")
    if nested:
        member = make_pipeline(GridSearchCV(make_pipeline(member), {}, cv=2))
    rows = np.isin(y, kept)
    whole = make_pipeline(StandardScaler(), member).fit(X, y)
    part = make_pipeline(StandardScaler(), clone(member)).fit(X[rows], y[rows])
    found = decision_values(part, X, classes)
    assert found.shape == decision_values(whole, X, classes).shape == (300, 10)
    # The class that wins most of its pairs is the one that the member predicts.
    won = np.zeros((300, 5))
    for column, (a, b) in zip(found.T, combinations(range(5), 2), strict=True):
        won[:, a] += column > 0
        won[:, b] += column < 0
    best = won == won.max(axis=1)[:, None]
    assert best[np.arange(300), part.predict(X)].all()


def test_an_ensemble_takes_pairs_where_a_fold_lacks_a_class() -> None:
    X, y = make_classification(
        300, 8, n_informative=6, n_classes=4, n_clusters_per_class=1, random_state=0
    )
    y = np.where(np.arange(300) < 240, y % 3, y)  # the fourth class in the last fold
    members = [("svc", SVC(decision_function_shape="ovo")), LR]
    ensemble = EnsembleClassifier(members, cv=KFold(5)).fit(X, y)
    assert ensemble.predict_proba(X).shape == (300, 4)
