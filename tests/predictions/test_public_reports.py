"""Situations from public reports about other tools, in small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import make_classification
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier
from tests.predictions.members.test_label_codes import CodesOnly

Data = tuple[Any, Any]
NB = ("nb", GaussianNB())

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


@pytest.fixture
def two() -> Data:
    X, y = make_classification(300, 8, n_informative=5, random_state=0)
    return X, y


def test_balanced_forests_take_strings_that_look_like_numbers(two: Data) -> None:
    # scikit-learn/scikit-learn#34883: in 1.9 the forest itself raises.
    X, y = two[0], np.array(["1", "2"])[two[1]]
    forest = RandomForestClassifier(10, class_weight="balanced", random_state=0)
    ensemble = EnsembleClassifier([("forest", forest), NB]).fit(X, y)
    assert ensemble.classes_.tolist() == ["1", "2"]
    assert ensemble.score(X, y) > 0.8


def test_fitted_members_vote_with_strings() -> None:
    # rasbt/mlxtend#321
    X = np.array([0, 1, 2, 3, 0, 1, 2, 3])[:, None]
    y = list("abcdabcd")
    forest = RandomForestClassifier(random_state=0).fit(X, y)
    members = [("one", forest), ("two", forest)]
    ensemble = EnsembleClassifier(members, rule="vote", weights=None, cv="prefit")
    assert ensemble.fit(X, y).predict(X[:2]).tolist() == ["a", "b"]


@pytest.mark.parametrize("labels", [[1, 2, 3], [0, 3, 4], ["H", "D", "A"]])
def test_codes_of_a_booster_need_not_be_made_by_hand(labels: list[Any]) -> None:
    # dmlc/xgboost#8433, scikit-learn-contrib/DESlib#231, vecxoz/vecstack#38
    X, y = make_classification(200, 8, n_informative=5, n_classes=3, random_state=0)
    named = np.array(labels)[y]
    ensemble = EnsembleClassifier([("codes", CodesOnly()), NB], cv=3).fit(X, named)
    assert set(ensemble.predict(X)) <= set(labels)
    assert ensemble.score(X, named) > 0.6


def test_a_class_with_fewer_rows_than_folds_is_lacking_in_some(two: Data) -> None:
    # EpistasisLab/tpot#1333: some folds have five classes of six.
    X, y = two
    y = np.where(np.arange(300) < 3, 7, y + 5)
    members = [("codes", CodesOnly()), NB]
    with pytest.warns(UserWarning, match="least populated class"):
        ensemble = EnsembleClassifier(members, cv=StratifiedKFold(5)).fit(X, y)
    assert ensemble.classes_.tolist() == [5, 6, 7]
    assert ensemble.oof_score_ > np.log(1 / 3)


@pytest.mark.filterwarnings("ignore:weights and calibration are learned from")
def test_fitted_bags_of_members_without_probabilities_are_taken(two: Data) -> None:
    # scikit-learn/scikit-learn#24429
    X, y = two
    some, rest = slice(0, 150), slice(150, 300)
    members = [
        (name, BaggingClassifier(one, 5, random_state=0).fit(X[some], y[some]))
        for name, one in (("lr", LogisticRegression()), ("svm", LinearSVC()))
    ]
    ensemble = EnsembleClassifier(members, cv="prefit").fit(X[rest], y[rest])
    assert ensemble.score(X[rest], y[rest]) > 0.7


class UnderSampled(DecisionTreeClassifier):
    """Takes as many rows of each class, as a balanced forest's trees do."""

    def fit(self, X: Any, y: Any) -> Any:
        rare = np.flatnonzero(y == 1)
        kept = np.flatnonzero(y == 0)[: len(rare)]
        kept = np.concatenate([rare, kept])
        return super().fit(X[kept], y[kept])


def test_bias_of_sampled_classes_is_corrected() -> None:
    # scikit-learn-contrib/imbalanced-learn#1077
    X, y = make_classification(
        4000, 10, n_informative=5, weights=[0.95], class_sep=0.7, random_state=2
    )
    some, rest = slice(0, 1500), slice(1500, None)
    members = [
        (f"t{depth}", UnderSampled(max_depth=depth, random_state=0))
        for depth in (2, 3, 4)
    ]
    ensemble = EnsembleClassifier(members).fit(X[some], y[some])
    corrected = ensemble.predict_proba(X[rest])
    assert corrected[:, 1].mean() == pytest.approx(y[rest].mean(), abs=0.02)
    plain = EnsembleClassifier(members, rule="mean", weights=None).fit(X[some], y[some])
    biased = plain.predict_proba(X[rest])
    assert biased[:, 1].mean() > 2 * y[rest].mean()
    assert log_loss(y[rest], corrected) < log_loss(y[rest], biased) / 2


def test_thresholds_are_tuned_around_an_ensemble_and_kept_by_voting_members(
    two: Data,
) -> None:
    # scikit-learn/scikit-learn#30036
    X, y = two[0], np.array(["no", "yes"])[two[1]]
    ensemble = EnsembleClassifier([NB, ("near", KNeighborsClassifier())], cv=3)
    tuned = TunedThresholdClassifierCV(ensemble, scoring="balanced_accuracy", cv=3)
    assert tuned.fit(X, y).score(X, y) > 0.7
    member = TunedThresholdClassifierCV(GaussianNB(), scoring="balanced_accuracy", cv=3)
    voting = EnsembleClassifier([("tuned", member)], rule="vote", weights=None)
    alone = voting.fit(X, y).estimators_[0]
    assert voting.predict(X).tolist() == alone.predict(X).tolist()


class Columns(BaseEstimator, TransformerMixin):
    """Some of the columns."""

    def __init__(self, columns: Any = ()) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any = None) -> Any:
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Any) -> Any:
        return X[:, self.columns]


def test_members_may_see_other_columns(two: Data) -> None:
    # rasbt/mlxtend#316
    X, y = two
    members = [
        ("first", make_pipeline(Columns([0, 1, 2, 3]), LogisticRegression())),
        ("last", make_pipeline(Columns([4, 5, 6, 7]), GaussianNB())),
    ]
    assert EnsembleClassifier(members).fit(X, y).score(X, y) > 0.6


def test_sample_weights_are_handed_on_by_name(two: Data) -> None:
    # scikit-learn/scikit-learn#9474
    class Named(GaussianNB):
        def fit(
            self, X: Any, y: Any, other: Any = None, sample_weight: Any = None
        ) -> Any:
            assert other is None
            assert sample_weight is not None
            return super().fit(X, y, sample_weight)

    X, y = two
    EnsembleClassifier([("a", Named()), NB]).fit(X, y, sample_weight=np.ones(300))


def test_labels_that_are_floats_are_counted(two: Data) -> None:
    # scikit-learn/scikit-learn#5803
    X, y = two[0], two[1] + np.where(two[0][:, 0] > 1, 2.0, 1.0)
    members = [NB, ("tree", DecisionTreeClassifier(random_state=0))]
    ensemble = EnsembleClassifier(members, rule="vote", weights=None).fit(X, y)
    assert ensemble.predict(X).dtype == y.dtype
    assert ensemble.score(X, y) > 0.5


def test_nets_of_skorch_take_strings_and_other_numbers(two: Data) -> None:
    # skorch-dev/skorch#518
    skorch = pytest.importorskip("skorch")
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 2)

        def forward(self, X: Any) -> Any:
            return self.layer(X.float())

    X, y = two
    net = skorch.NeuralNetClassifier(
        Net, criterion=torch.nn.CrossEntropyLoss, max_epochs=3, verbose=0
    )
    for labels in (["ham", "spam"], [5, 6]):
        named = np.array(labels)[y]
        members = [("net", net), NB]
        ensemble = EnsembleClassifier(members, cv=2).fit(X, named)
        assert set(ensemble.predict(X)) == set(labels)
        vote = EnsembleClassifier(members, rule="vote", weights=None).fit(X, named)
        assert set(vote.predict(X)) <= set(labels)
