"""Traps that VotingClassifier falls into, shown on it, and not fallen into here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier
from tests.predictions.doubles import Failing

Data = tuple[Any, Any]

# Members are few here, and need not help each other.
pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


def frozen(X: Any, y: Any) -> list[tuple[str, Any]]:
    members = [("nb", GaussianNB()), ("tree", DecisionTreeClassifier(max_depth=2))]
    return [(name, FrozenEstimator(member.fit(X, y))) for name, member in members]


@pytest.mark.parametrize("labels", [["a", "b", "c"], [5, 6, 7]], ids=["str", "int"])
def test_frozen_members_vote_by_label(labels: list[Any], iris: Data) -> None:
    X, y = iris[0], np.array(labels)[iris[1]]
    voting = VotingClassifier(frozen(X, y))
    # Strings cannot be cast, and counts of votes for 7 stand where classes_ has 3.
    with pytest.raises((TypeError, IndexError, ValueError)):
        voting.fit(X, y).predict(X)
    ensemble = EnsembleClassifier(frozen(X, y), rule="vote", weights=None).fit(X, y)
    assert ensemble.score(X, y) > 0.9
    assert set(ensemble.predict(X)) == set(labels)


def test_members_with_other_classes_are_not_averaged_column_by_column(
    iris: Data,
) -> None:
    X, y = iris
    first, last = X[y != 2], X[y != 0]
    members = [
        ("01", FrozenEstimator(GaussianNB().fit(first, y[y != 2]))),
        ("12", FrozenEstimator(GaussianNB().fit(last, y[y != 0]))),
    ]
    voting = VotingClassifier(members, voting="soft").fit(first, y[y != 2])
    # Of the last species member 12 is sure, in the column where 01 has class 1.
    assert set(voting.predict(X[y == 2])) <= {0, 1}
    ensemble = EnsembleClassifier(members, rule="mean", weights=None)
    with pytest.raises(
        ValueError, match=r"member '01' must have every class: it lacks 2"
    ):
        ensemble.fit(X, y)
    ensemble.set_params(missing_class="zero").fit(first, y[y != 2])
    assert ensemble.classes_.tolist() == [0, 1, 2]
    known = ensemble.predict_proba(X)
    assert known[:, 0] == pytest.approx(members[0][1].predict_proba(X)[:, 0] / 2)
    assert known[:, 2] == pytest.approx(members[1][1].predict_proba(X)[:, 1] / 2)


def test_one_failing_member_does_not_kill_predict(iris: Data) -> None:
    X, y = iris
    members = [("nb", GaussianNB()), ("fails", Failing())]
    voting = VotingClassifier(members, voting="soft").fit(X, y)
    ensemble = EnsembleClassifier(
        members, rule="mean", weights=None, on_error="drop"
    ).fit(X, y)
    voting.named_estimators_["fails"].where = "predict"
    ensemble.named_estimators_["fails"].where = "predict"
    with pytest.raises(RuntimeError, match="out of memory"):
        voting.predict(X)
    with pytest.warns(UserWarning, match="member 'fails' failed and is left out: Runt"):
        predicted = ensemble.predict(X)
    assert predicted.tolist() == GaussianNB().fit(X, y).predict(X).tolist()


def test_text_pipelines_are_members_that_fit_and_know_no_number_of_features() -> None:
    X = ["good film", "bad film", "good plot", "bad plot"] * 5
    y = ["yes", "no"] * 10
    members = [
        ("nb", make_pipeline(CountVectorizer(), MultinomialNB())),
        ("lr", make_pipeline(CountVectorizer(), LogisticRegression())),
    ]
    with pytest.raises(AttributeError, match="n_features_in_"):
        _ = VotingClassifier(members).fit(X, y).n_features_in_
    ensemble = EnsembleClassifier(members).fit(X, y)
    assert not hasattr(ensemble, "n_features_in_")
    assert ensemble.predict(["good", "bad"]).tolist() == ["yes", "no"]


def test_a_member_that_takes_no_sample_weight_is_named_or_left_out(iris: Data) -> None:
    X, y = iris
    members = [("nb", GaussianNB()), ("near", KNeighborsClassifier())]
    weight = np.ones(len(y))
    with pytest.raises(TypeError, match="KNeighborsClassifier does not support"):
        VotingClassifier(members).fit(X, y, sample_weight=weight)
    ensemble = EnsembleClassifier(members, weights=None)
    with pytest.raises(TypeError, match=r"^member 'near' must accept sample_weight"):
        ensemble.fit(X, y, sample_weight=weight)
    ensemble.set_params(on_error="drop")
    with pytest.warns(UserWarning, match="member 'near' failed and is left out"):
        ensemble.fit(X, y, sample_weight=weight)
    assert list(ensemble.named_estimators_) == ["nb"]


def test_a_search_over_weights_of_members_that_saw_the_data_is_warned_of(
    rng: np.random.Generator,
) -> None:
    X = rng.normal(size=(200, 5))
    y = (X[:, 0] + rng.normal(size=200) > 0).astype(int)
    members = [
        ("sound", FrozenEstimator(LogisticRegression().fit(X, y))),
        ("rote", FrozenEstimator(KNeighborsClassifier(1).fit(X, y))),
    ]
    grid = {"weights": [[1, 0], [0, 1]]}
    search = GridSearchCV(VotingClassifier(members, voting="soft"), grid).fit(X, y)
    assert search.best_params_ == {"weights": [0, 1]}  # without a word
    with pytest.warns(
        UserWarning, match="already fitted must not have seen these data"
    ):
        EnsembleClassifier(members, rule="mean", weights="greedy").fit(X, y)
    # Weights learned where all are fitted are those of what was held out.
    plain = [(name, member.estimator) for name, member in members]
    learned = EnsembleClassifier(plain, rule="mean", weights="convex").fit(X, y)
    assert learned.weights_[0] > learned.weights_[1]


def test_a_member_that_memorises_wins_where_it_was_trained_and_loses_elsewhere(
    rng: np.random.Generator,
) -> None:
    X = rng.normal(size=(600, 5))
    y = (X[:, 0] + rng.normal(size=600) > 0).astype(int)
    seen, fresh, last = slice(0, 200), slice(200, 400), slice(400, 600)
    members = [
        ("sound", LogisticRegression().fit(X[seen], y[seen])),
        ("rote", KNeighborsClassifier(1).fit(X[seen], y[seen])),
    ]
    ensemble = EnsembleClassifier(members, cv="prefit")
    with pytest.warns(UserWarning, match="must not have seen these data"):
        ensemble.fit(X[seen], y[seen])
    assert ensemble.weights_[1] > ensemble.weights_[0]
    leaked = ensemble.score(X[last], y[last])
    with pytest.warns(UserWarning, match="must not have seen these data"):
        ensemble.fit(X[fresh], y[fresh])
    assert ensemble.weights_[0] > ensemble.weights_[1]
    assert ensemble.score(X[last], y[last]) > leaked
