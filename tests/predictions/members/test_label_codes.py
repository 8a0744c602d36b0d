"""Classifiers that take 0, …, n_classes - 1 only, as XGBoost does, beside others."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier

Data = tuple[Any, Any]
LR = ("lr", LogisticRegression(max_iter=500))

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


class CodesOnly(GaussianNB):
    """Refuses labels as XGBClassifier does, and knows no ``classes_`` but codes."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        expected = np.arange(len(np.unique(y)))
        if np.asarray(y).dtype.kind not in "iufb" or (np.unique(y) != expected).any():
            raise ValueError(
                "Invalid classes inferred from unique values of `y`.  "
                f"Expected: {expected}, got {np.unique(y)}"
            )
        self.n_classes_in_ = len(expected)
        return super().fit(X, y, sample_weight)


class ByIndex(GaussianNB):
    """Takes labels for places, as torch does, and predicts columns."""

    def fit(self, X: Any, y: Any) -> Any:
        counts = np.zeros(len(np.unique(y)))
        for label in np.asarray(y):
            counts[label] += 1
        return super().fit(X, y)

    def predict(self, X: Any) -> Any:
        return super().predict(X).reshape(-1, 1)  # as CatBoost


@pytest.fixture
def three() -> Data:
    X, y = make_classification(300, 8, n_informative=5, n_classes=3, random_state=0)
    return X, y


@pytest.mark.parametrize("member", [CodesOnly(), ByIndex()], ids=repr)
@pytest.mark.parametrize(
    "labels", [["cat", "dog", "eel"], [5, 6, 7], [-1, 0, 1], [0.0, 2.0, 5.0], [0, 2, 3]]
)
@pytest.mark.parametrize(
    ("rule", "weights"),
    [("log_pool", "convex"), ("mean", "greedy"), ("mean", None), ("vote", [2, 1])],
)
def test_a_member_that_refuses_labels_is_fitted_to_their_codes(
    rule: str, weights: Any, labels: list[Any], member: Any, three: Data
) -> None:
    X, y = three
    plain = EnsembleClassifier([("codes", member), LR], rule=rule, weights=weights)
    expected = plain.fit(X, y)
    named = EnsembleClassifier([("codes", member), LR], rule=rule, weights=weights)
    named.fit(X, np.array(labels)[y])
    assert named.classes_.tolist() == labels
    assert named.predict(X).tolist() == np.array(labels)[expected.predict(X)].tolist()
    assert named.predict_proba(X) == pytest.approx(expected.predict_proba(X))


def test_a_fold_that_lacks_a_class_has_codes_of_its_own(three: Data) -> None:
    X, y = three
    order = np.argsort(y, kind="stable")
    members = [("codes", CodesOnly()), LR]
    ensemble = EnsembleClassifier(members, cv=KFold(3)).fit(X[order], y[order])
    assert (ensemble.oof_[0, :100, 0] == 0).all()
    assert (ensemble.oof_[0, 100:200, 1] == 0).all()
    assert ensemble.oof_[0].sum(axis=1) == pytest.approx(1)


def test_labels_come_first_so_that_class_weight_can_name_them(three: Data) -> None:
    X, y = three
    weighted = LogisticRegression(class_weight={"cat": 9.0, "dog": 1.0, "eel": 1.0})
    members = [
        ("lr", weighted),
        ("codes", make_pipeline(StandardScaler(), CodesOnly())),
    ]
    names = np.array(["cat", "dog", "eel"])
    ensemble = EnsembleClassifier(members, rule="mean", weights=None).fit(X, names[y])
    assert ensemble.estimators_[0].class_weight["cat"] == 9
    assert ensemble.score(X, names[y]) > 0.6


def test_a_member_on_codes_has_its_own_attributes_and_can_be_kept(
    three: Data, tmp_path: Path
) -> None:
    X, y = three
    names = np.array(["cat", "dog", "eel"])[y]
    ensemble = EnsembleClassifier([("codes", CodesOnly())], weights=None)
    ensemble.set_params(memory=str(tmp_path)).fit(X, names)
    assert ensemble.named_estimators_["codes"].n_classes_in_ == 3
    assert ensemble.estimators_[0].classes_.tolist() == ["cat", "dog", "eel"]
    again = pickle.loads(pickle.dumps(ensemble))
    assert again.predict(X).tolist() == ensemble.predict(X).tolist()
    grid = {"rule": ["mean", "vote"]}
    search = GridSearchCV(ensemble, grid, cv=3, error_score="raise").fit(X, names)
    assert search.best_score_ > 0.6


def test_sample_weights_go_with_codes(three: Data) -> None:
    X, y = three
    weight = np.where(y == 0, 9.0, 1.0)
    ensemble = EnsembleClassifier([("codes", CodesOnly()), LR])
    ensemble.fit(X, y + 5, sample_weight=weight)
    assert ensemble.estimators_[0].class_prior_[0] > 0.7


def test_a_member_that_fails_on_codes_too_fails_as_on_labels(three: Data) -> None:
    class Broken(GaussianNB):
        def fit(self, X: Any, y: Any) -> Any:
            raise ValueError(f"no room for {np.asarray(y).dtype.kind}")

    X, y = three
    ensemble = EnsembleClassifier([("broken", Broken()), LR])
    with pytest.raises(ValueError, match="no room for U"):
        ensemble.fit(X, np.array(["a", "b", "c"])[y])
    with pytest.raises(ValueError, match="no room for i"):
        ensemble.fit(X, y)
    ensemble.set_params(on_error="drop")
    with pytest.warns(UserWarning, match="'broken' failed and is left out: ValueError"):
        ensemble.fit(X, y)


def test_xgboost_itself_takes_part_with_any_labels(three: Data) -> None:
    xgboost = pytest.importorskip("xgboost")
    X, y = three
    names = np.array(["cat", "dog", "eel"])[y]
    members = [("x", xgboost.XGBClassifier(n_estimators=10)), LR]
    assert EnsembleClassifier(members, cv=3).fit(X, names).score(X, names) > 0.9


class SeveralCodes(DecisionTreeClassifier):
    """Refuses labels as XGBClassifier in MultiOutputClassifier does."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        for column in np.asarray(y).T:
            if column.dtype.kind not in "iu" or column.min() != 0:
                raise ValueError(f"Invalid classes: expected 0 first, got {column[0]}")
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("kind", ["text", "5, 6, 7", "objects"])
def test_labels_of_several_targets_are_codes_too(kind: str) -> None:
    X, y = make_classification(200, 6, n_informative=4, n_classes=3, random_state=0)
    text, numbers = np.array(["cat", "dog", "eel"])[y], 7 - y
    columns = {"text": (text, text[::-1]), "5, 6, 7": (numbers, y + 8)}
    made = columns.get(kind, (text.astype(object), text[::-1]))
    Y = np.column_stack(made)
    tree = {"max_depth": 3, "random_state": 0}
    members = [("c", SeveralCodes(**tree)), ("t", DecisionTreeClassifier(**tree))]
    ensemble = EnsembleClassifier(members).fit(X, Y)
    plain = EnsembleClassifier(members[1:]).fit(X, Y)
    # The same tree twice: its weight is shared, and nothing else changes.
    coded, labelled = ensemble.estimators_
    assert np.array_equal(coded.predict(X), labelled.predict(X))
    assert np.mean(ensemble.predict(X) == plain.predict(X)) > 0.95
    for own, classes in zip(coded.classes_, ensemble.classes_, strict=True):
        assert np.array_equal(own, classes)


def test_adapted_members_are_classifiers_of_scikit_learn() -> None:
    X, y = make_classification(200, 6, n_informative=4, class_sep=2, random_state=0)
    labels = np.array(["cat", "dog"])[y]
    members = [("codes", CodesOnly()), ("decides", LinearSVC()), LR]
    ensemble = EnsembleClassifier(members).fit(X, labels)
    again = EnsembleClassifier(list(ensemble.named_estimators_.items()), cv="prefit")
    again.set_params(weights=None).fit(X, labels)
    assert again.score(X, labels) > 0.7
    for member, kind in zip(ensemble.estimators_, (CodesOnly, LinearSVC), strict=False):
        assert is_classifier(member)
        assert type(clone(member)) is kind
        right = np.mean(member.predict(X) == labels)
        assert member.score(X, labels) == right
        assert get_scorer("accuracy")(member, X, labels) == right
        frozen = CalibratedClassifierCV(FrozenEstimator(member)).fit(X, labels)
        assert frozen.score(X, labels) > 0.7
