"""Sample weights and other metadata, on their way to members, splitter and scorer."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sklearn
from scipy import sparse
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier, EnsembleTransformer

Data = tuple[Any, Any]

# Members are few here, and need not help each other.
pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class Splitter(GroupKFold):
    """Keeps the groups that it was given."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Any:
        self.groups = groups
        return super().split(X, y, groups)


@pytest.mark.parametrize(
    ("rule", "weights"),
    [("log_pool", "convex"), ("mean", "greedy"), ("rank_mean", None), ("vote", None)],
)
def test_a_sample_weight_means_repetition(rule: str, weights: Any, iris: Data) -> None:
    X, y = iris
    times = np.arange(len(y)) % 3
    members = [
        ("nb", GaussianNB()),
        ("tree", DecisionTreeClassifier(max_depth=2, random_state=0)),
    ]
    first, rest = np.arange(75), np.arange(75, 150)
    splits = [(first, rest), (rest, first)]
    places = np.arange(150).repeat(times)
    again = [[np.flatnonzero(np.isin(places, part)) for part in s] for s in splits]
    ensemble = EnsembleClassifier(members, rule=rule, calibrate="isotonic", cv=splits)
    ensemble.set_params(weights=weights)
    weighted = ensemble.fit(X, y, sample_weight=times).predict_proba(X)
    ensemble.set_params(cv=again)
    repeated = ensemble.fit(X[places], y[places]).predict_proba(X)
    assert weighted == pytest.approx(repeated, abs=1e-5)


def test_weights_that_are_no_whole_numbers_count_in_proportion(iris: Data) -> None:
    X, y = iris
    members = [("nb", GaussianNB()), ("flat", GaussianNB(var_smoothing=1.0))]
    ensemble = EnsembleClassifier(members, rule="rank_mean", weights=None)
    weight = np.arange(150.0) % 3
    whole = ensemble.fit(X, y, sample_weight=weight).predict_proba(X)
    scaled = ensemble.fit(X, y, sample_weight=weight * 0.3).predict_proba(X)
    assert scaled == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("times", [20_000, 2.0**40, 2.0**70, 0.37])
def test_ranks_are_kept_of_few_rows_whatever_the_weights(
    times: float, iris: Data
) -> None:
    X, y = iris
    members = [("nb", GaussianNB()), ("flat", GaussianNB(var_smoothing=1.0))]
    ensemble = EnsembleClassifier(members, rule="rank_mean", weights=None)
    weight = 1 + np.arange(150.0) % 3
    whole = ensemble.fit(X, y, sample_weight=weight).predict_proba(X)
    few = len(pickle.dumps(ensemble))
    found = ensemble.fit(X, y, sample_weight=weight * times).predict_proba(X)
    assert found == pytest.approx(whole, abs=1e-4)
    alike = times in (20_000, 2.0**40)  # whole, so that their divisor is known
    assert len(pickle.dumps(ensemble)) < (2 * few if alike else 4e6)
    odd = ensemble.fit(X, y, sample_weight=weight * 20_000 + 1).predict_proba(X)
    assert odd == pytest.approx(whole, abs=1e-3)
    assert len(pickle.dumps(ensemble)) < 4e6


@pytest.mark.parametrize("weight", [[1.0], [0.0] * 150, [-1.0] + [1.0] * 149])
def test_sample_weights_are_checked(weight: list[float], iris: Data) -> None:
    ensemble = EnsembleClassifier([("nb", GaussianNB())])
    with pytest.raises(ValueError, match=r"^sample_weight must"):
        ensemble.fit(*iris, sample_weight=weight)


def test_sample_weights_reach_the_scores(iris: Data) -> None:
    X, y = iris
    members = [("nb", GaussianNB()), ("flat", GaussianNB(var_smoothing=1.0))]
    ensemble = EnsembleClassifier(members, rule="mean", weights="convex", cv=3)
    plain = ensemble.fit(X, y).scores_
    weighted = ensemble.fit(X, y, sample_weight=np.where(y == 0, 9.0, 1.0)).scores_
    assert (weighted > plain + 0.01).all()  # the first species is told easily


def test_a_scorer_that_takes_no_sample_weight_is_named(iris: Data) -> None:
    def share(member: Any, X: Any, y: Any) -> float:
        return float((member.predict(X) == y).mean())

    def wrong(member: Any, X: Any, y: Any, sample_weight: Any) -> float:
        raise TypeError("no number")

    members = [("nb", GaussianNB())]
    ensemble = EnsembleClassifier(members, weights=[1], calibrate="sigmoid")
    message = (
        r"scoring <function .*share.* must accept sample_weight: .*_request\(sample"
    )
    with pytest.raises(TypeError, match=message):
        ensemble.set_params(scoring=share).fit(*iris, sample_weight=np.ones(150))
    assert ensemble.fit(*iris).oof_score_ > 0.9
    with pytest.raises(TypeError, match="before any member was fitted: no number"):
        ensemble.set_params(scoring=wrong).fit(*iris, sample_weight=np.ones(150))


def test_other_metadata_need_routing(iris: Data) -> None:
    ensemble = EnsembleClassifier([("nb", GaussianNB())])
    with pytest.raises(
        TypeError, match=r"fit must not get groups without .*_routing=True"
    ):
        ensemble.fit(*iris, groups=iris[1])


@pytest.mark.usefixtures("routing")
def test_members_get_what_they_ask_for(iris: Data) -> None:
    X, y = iris
    weight = np.where(y == 0, 9.0, 1.0)
    asking = GaussianNB().set_fit_request(sample_weight=True)
    scaled = make_pipeline(
        StandardScaler().set_fit_request(sample_weight=False),
        GaussianNB().set_fit_request(sample_weight=True),
    )
    members = [("asks", asking), ("pipe", scaled), ("near", KNeighborsClassifier())]
    ensemble = EnsembleClassifier(members).fit(X, y, sample_weight=weight)
    assert ensemble.estimators_[0].class_prior_[0] > 0.7
    assert ensemble.estimators_[1][-1].class_prior_[0] > 0.7
    silent = EnsembleClassifier([("nb", GaussianNB())])
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        silent.fit(X, y, sample_weight=weight)


@pytest.mark.usefixtures("routing")
def test_the_splitter_gets_groups(iris: Data) -> None:
    X, y = iris
    groups, splitter = np.arange(len(y)) // 10, Splitter(3)
    members = [("nb", GaussianNB()), ("flat", GaussianNB(var_smoothing=1.0))]
    EnsembleClassifier(members, cv=splitter).fit(X, y, groups=groups)
    assert splitter.groups.tolist() == groups.tolist()


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("asks", [True, False])
def test_the_scorer_gets_sample_weights_if_it_asks(asks: bool, iris: Data) -> None:
    X, y = iris
    members = [
        ("nb", GaussianNB().set_fit_request(sample_weight=False)),
        ("flat", GaussianNB(var_smoothing=1.0).set_fit_request(sample_weight=False)),
    ]
    scorer = get_scorer("neg_log_loss").set_score_request(sample_weight=asks)
    ensemble = EnsembleClassifier(members, rule="mean", weights="convex", cv=3)
    plain = ensemble.fit(X, y).scores_
    ensemble.set_params(scoring=scorer)
    weighted = ensemble.fit(X, y, sample_weight=np.where(y == 0, 9.0, 1.0)).scores_
    assert np.allclose(plain, weighted) == (not asks)


@pytest.mark.usefixtures("routing")
def test_a_calibrated_ensemble_hands_on_to_others_within_others(iris: Data) -> None:
    X, y = iris
    asking = GaussianNB().set_fit_request(sample_weight=True)
    ensemble = EnsembleClassifier([("nb", asking)], calibrate="sigmoid", cv=3)
    ensemble.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    params = {"sample_weight": np.ones(len(y))}
    scores = cross_validate(ensemble, X, y, cv=3, params=params, error_score="raise")
    assert scores["test_score"].mean() > 0.9


@pytest.mark.usefixtures("routing")
def test_prefit_members_are_asked_nothing(iris: Data) -> None:
    X, y = iris
    members = [("near", KNeighborsClassifier().fit(X, y))]
    ensemble = EnsembleClassifier(members, cv="prefit", weights=None)
    assert ensemble.fit(X, y, sample_weight=np.ones(len(y))).score(X, y) > 0.9


@pytest.mark.usefixtures("routing")
def test_transformers_get_what_they_ask_for(iris: Data) -> None:
    scaler = StandardScaler().set_fit_request(sample_weight=True)
    ensemble = EnsembleTransformer([("scaler", scaler)])
    X, y = iris
    ensemble.fit(X, sample_weight=np.where(y == 0, 9.0, 1.0))
    assert ensemble.estimators_[0].mean_ != pytest.approx(X.mean(axis=0))


def test_a_pipeline_takes_sample_weight_by_routing_alone(iris: Data) -> None:
    pipeline = make_pipeline(StandardScaler(), GaussianNB())
    ensemble = EnsembleClassifier([("pipe", pipeline)], weights=None)
    message = (
        "member 'pipe' must accept sample_weight in fit: Pipeline does not; .*routi"
    )
    with pytest.raises(TypeError, match=message):
        ensemble.fit(*iris, sample_weight=np.ones(150))


class Beside(GaussianNB):
    """Is given more than its X."""

    def fit(self, X: Any, y: Any, beside: Any = None, label: Any = None) -> Any:
        self.sizes = np.shape(X)[0], np.shape(beside)[0]
        return super().fit(X, y)

    def predict_proba(self, X: Any) -> Any:
        assert self.sizes[0] == self.sizes[1]
        return super().predict_proba(X)


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.coo_array, np.asarray, list])
def test_metadata_are_cut_like_the_rows(kind: Any, iris: Data) -> None:
    X, y = iris
    member = Beside().set_fit_request(beside=True, label=True)
    ensemble = EnsembleClassifier([("a", member), ("nb", GaussianNB())])
    ensemble.fit(X, y, beside=kind(X), label=np.array(3))
    assert ensemble.score(X, y) > 0.9


@pytest.mark.usefixtures("routing")
def test_a_search_asks_for_the_members_requests_alone(iris: Data) -> None:
    X, y = iris
    weight = np.where(y == 0, 9.0, 1.0)
    members = [("nb", GaussianNB().set_fit_request(sample_weight=True))]
    grid = {"rule": ["mean", "vote"]}
    voting = GridSearchCV(VotingClassifier(members), {"voting": ["soft"]}, cv=3)
    voting.fit(X, y, sample_weight=weight)
    ensemble = EnsembleClassifier(members, weights=None)
    search = GridSearchCV(ensemble, grid, cv=3).fit(X, y, sample_weight=weight)
    assert search.best_estimator_.estimators_[0].class_prior_[0] > 0.7
    silent = EnsembleClassifier([("near", KNeighborsClassifier())], weights=None)
    with pytest.raises(TypeError, match="sample_weight"):
        GridSearchCV(silent, grid, cv=3).fit(X, y, sample_weight=weight)


@pytest.mark.usefixtures("routing")
def test_fit_transform_routes_to_the_members_own(iris: Data) -> None:
    X, y = iris
    weight = np.where(y == 0, 9.0, 1.0)
    scaler = StandardScaler().set_fit_request(sample_weight=True)
    ensemble = EnsembleTransformer([("scaler", scaler)])
    found = ensemble.fit_transform(X, sample_weight=weight)
    assert found == pytest.approx(ensemble.fit(X, sample_weight=weight).transform(X))
    assert ensemble.estimators_[0].mean_ != pytest.approx(X.mean(axis=0))
