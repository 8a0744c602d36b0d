"""Searches and validation by scikit-learn, and what is kept between fits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.random_projection import GaussianRandomProjection
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from ensembles.predictions import EnsembleClassifier, EnsembleTransformer
from tests.predictions.doubles import Counting

Data = tuple[Any, Any]

# Members are few here, and need not help each other.
pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)
MEMBERS = [("nb", GaussianNB()), ("tree", DecisionTreeClassifier(random_state=0))]


def test_a_search_with_memory_fits_each_member_once_a_fold(
    iris: Data, tmp_path: Path
) -> None:
    members = [
        (name, Counting(label=name, var_smoothing=smoothing))
        for name, smoothing in (("a", 1e-9), ("b", 1e-2), ("c", 1.0))
    ]
    grid = {
        "rule": ["mean", "vote", "log_pool"],
        "weights": [None, [2, 1, 1]],
    }
    ensemble = EnsembleClassifier(members, memory=str(tmp_path))
    Counting.fits.clear()
    search = GridSearchCV(ensemble, grid, cv=5, refit=False).fit(*iris)
    assert len(search.cv_results_["params"]) == 6
    assert Counting.fits == {"a": 5, "b": 5, "c": 5}  # not 90
    Counting.fits.clear()
    plain = GridSearchCV(ensemble.set_params(memory=None), grid, cv=5, refit=False)
    plain.fit(*iris)
    assert Counting.fits.total() == 90
    scores = "mean_test_score"
    assert search.cv_results_[scores].tolist() == plain.cv_results_[scores].tolist()


def test_a_search_reaches_rules_weights_params_and_members(iris: Data) -> None:
    ensemble = EnsembleClassifier(MEMBERS, rule="mean", weights="greedy")
    grid: Any = [
        {"tree__max_depth": [1, 3], "weights_params": [{"n_rounds": 3}, None]},
        {"tree": [LogisticRegression(max_iter=500), "drop"], "weights": [None]},
        {"rule": ["geometric_mean"], "rule_params": [{"floor": 1e-3}, None]},
    ]
    search = GridSearchCV(ensemble, grid, cv=3).fit(*iris)
    assert search.best_score_ > 0.9
    assert ensemble.get_params()["tree"] is MEMBERS[1][1]  # not changed from outside


def test_a_random_search_and_cross_validation_take_it(iris: Data) -> None:
    ensemble = EnsembleClassifier(MEMBERS, weights=None)
    grid = {"rule": ["mean", "median", "vote"]}
    search = RandomizedSearchCV(ensemble, grid, n_iter=2, cv=3, random_state=0)
    assert search.fit(*iris).best_score_ > 0.9
    assert cross_validate(ensemble, *iris, cv=3)["test_score"].mean() > 0.9


def test_a_search_needs_members_frozen_where_they_are_fitted(iris: Data) -> None:
    X, y = iris
    fitted = [(name, clone(member).fit(X, y)) for name, member in MEMBERS]
    ensemble = EnsembleClassifier(fitted, weights=None, cv="prefit")
    grid = {"rule": ["mean", "vote"]}
    with pytest.raises(ValueError, match="member 'nb' must be fitted for cv='prefit'"):
        GridSearchCV(ensemble, grid, cv=3, error_score="raise").fit(X, y)
    frozen = [(name, FrozenEstimator(member)) for name, member in fitted]
    search = GridSearchCV(ensemble.set_params(estimators=frozen), grid, cv=3)
    assert search.fit(X, y).best_score_ > 0.9


def test_a_clone_and_a_pickle_are_the_same(iris: Data) -> None:
    ensemble = EnsembleClassifier(MEMBERS, calibrate="isotonic", rule="rank_mean")
    ensemble.set_params(weights="greedy").fit(*iris)
    expected = ensemble.predict_proba(iris[0]).tolist()
    restored = pickle.loads(pickle.dumps(ensemble))
    assert restored.predict_proba(iris[0]).tolist() == expected
    assert clone(ensemble).fit(*iris).predict_proba(iris[0]).tolist() == expected


def test_a_fit_forgets_what_the_one_before_learned(iris: Data) -> None:
    ensemble = EnsembleClassifier(MEMBERS, calibrate="sigmoid").fit(*iris)
    assert ensemble.oof_ is not None
    ensemble.set_params(weights=None, calibrate=None, rule="mean").fit(*iris)
    learned = (ensemble.oof_, ensemble.scores_, ensemble.best_index_)
    assert (*learned, ensemble.oof_score_, ensemble.calibrator_) == (None,) * 5
    assert ensemble.history_ == ()


def test_what_was_fitted_does_not_change_with_parameters(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier(MEMBERS, rule="mean", weights=None).fit(X, y)
    expected = ensemble.predict_proba(X).tolist()
    ensemble.set_params(rule="vote", weights=[9, 1], calibrate="isotonic", cv="prefit")
    assert ensemble.predict_proba(X).tolist() == expected


def test_from_voting_classifier_in_one_line(iris: Data) -> None:
    X, y = iris
    voting = VotingClassifier(MEMBERS, voting="soft", weights=[2, 1]).fit(X, y)
    ours = EnsembleClassifier(MEMBERS, rule="mean", weights=[2, 1]).fit(X, y)
    assert ours.predict_proba(X) == pytest.approx(voting.predict_proba(X), abs=1e-15)
    hard = VotingClassifier(MEMBERS, weights=[2, 1]).fit(X, y)
    ours = EnsembleClassifier(MEMBERS, rule="vote", weights=[2, 1]).fit(X, y)
    assert ours.predict(X).tolist() == hard.predict(X).tolist()


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_memory_does_not_make_one_of_members_that_differ_by_chance(
    n_jobs: int | None, iris: Data, tmp_path: Path
) -> None:
    members = [(f"t{i}", ExtraTreeClassifier(max_features=1)) for i in range(4)]
    ensemble = EnsembleClassifier(members, rule="mean", weights=None, n_jobs=n_jobs)
    ensemble.set_params(memory=str(tmp_path)).fit(*iris)
    iter_with_callbacks = {
        member.tree_.threshold.tobytes() for member in ensemble.estimators_
    }
    assert len(iter_with_callbacks) == 4
    again = clone(ensemble).fit(*iris)  # each is kept, under its name
    assert (
        again.predict_proba(iris[0]).tolist()
        == ensemble.predict_proba(iris[0]).tolist()
    )


def test_memory_does_not_make_one_of_transformers_that_differ_by_chance(
    iris: Data, tmp_path: Path
) -> None:
    members = [(f"p{i}", GaussianRandomProjection(2)) for i in range(3)]
    ensemble = EnsembleTransformer(members, memory=str(tmp_path))
    ensemble.fit_transform(*iris)
    iter_with_callbacks = {
        member.components_.tobytes() for member in ensemble.estimators_
    }
    assert len(iter_with_callbacks) == 3
