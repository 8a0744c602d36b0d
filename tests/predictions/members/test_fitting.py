"""Members of every estimator: their names, their failures, how they are reached."""

from __future__ import annotations

import weakref
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier, EnsembleRegressor
from ensembles.predictions.members import fitting
from tests.predictions.doubles import Counting, Failing

Data = tuple[Any, Any]
NB = ("nb", GaussianNB())
TREE = ("tree", DecisionTreeClassifier(max_depth=3, random_state=0))

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


@pytest.mark.parametrize(
    ("estimators", "message"),
    [
        ([], "estimators must be a non-empty list of"),
        (None, r"estimators must be a non-empty list .* found None"),
        ([GaussianNB()], "estimators must be a non-empty list"),
        ([NB, NB], r"names of estimators must be unique: found \['nb', 'nb'\]"),
        ([("a__b", GaussianNB())], "without '__' .* found 'a__b'"),
        ([("cv", GaussianNB())], "not names of parameters: found 'cv'"),
        ([("self", GaussianNB())], "not names of parameters: found 'self'"),
        ([("a", "drop")], "at least one member must not be 'drop': all are"),
    ],
    ids=str,
)
def test_members_that_are_none_are_reported(
    estimators: Any, message: str, iris: Data
) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleClassifier(estimators).fit(*iris)


def test_a_member_that_is_no_estimator_is_named(iris: Data) -> None:
    with pytest.raises(TypeError, match="member 'b' must be an estimator with a fit"):
        EnsembleClassifier([NB, ("b", "gone")]).fit(*iris)


@pytest.mark.parametrize("rule", ["mean", "vote"])
def test_members_of_the_other_kind_are_named(rule: str, iris: Data) -> None:
    regressor = make_pipeline(Ridge())
    message = r"member 'r' must be a classifier: Pipeline is a regressor; use En"
    with pytest.raises(TypeError, match=message):
        EnsembleClassifier([NB, ("r", regressor)], rule=rule).fit(*iris)
    message = "member 'nb' must be a regressor: GaussianNB is a classifier; use En"
    with pytest.raises(TypeError, match=message):
        EnsembleRegressor([NB, ("r", regressor)]).fit(*iris)
    ensemble = EnsembleClassifier([NB, ("s", StandardScaler())], rule="vote")
    message = "member 's' must have a predict method to vote: StandardScaler has none"
    with pytest.raises(ValueError, match=message):
        ensemble.set_params(weights=None).fit(*iris)


class Duck:
    """Says nothing of what it is."""

    def get_params(self, deep: bool = True) -> Any:
        return {}

    def fit(self, X: Any, y: Any) -> Any:
        self.classes_ = [0, 1, 2]
        return self

    def predict_proba(self, X: Any) -> Any:
        return np.full((len(X), 3), 1 / 3)


def test_a_member_that_does_not_say_its_kind_is_taken(iris: Data) -> None:
    ensemble = EnsembleClassifier([NB, ("duck", Duck())], rule="mean")
    assert ensemble.fit(*iris).weights_[0] > 0.9


def test_what_is_frozen_inside_of_a_member_is_warned_of(iris: Data) -> None:
    frozen = FrozenEstimator(KNeighborsClassifier(1).fit(*iris))
    member = ("pipe", make_pipeline(StandardScaler(with_std=False), frozen))
    with pytest.warns(UserWarning, match="must not have seen these data"):
        EnsembleClassifier([member, NB]).fit(*iris)
    EnsembleClassifier([member, NB], weights=None).fit(*iris)


def test_a_dropped_member_keeps_its_place_among_the_weights(iris: Data) -> None:
    X, y = iris
    members = [NB, ("out", "drop"), TREE]
    ensemble = EnsembleClassifier(members, rule="mean", weights=[1, 5, 3]).fit(X, y)
    expected = EnsembleClassifier([NB, TREE], rule="mean", weights=[1, 3]).fit(X, y)
    assert list(ensemble.named_estimators_) == ["nb", "tree"]
    assert ensemble.weights_.tolist() == [1, 3]
    assert ensemble.predict_proba(X) == pytest.approx(expected.predict_proba(X))


def test_members_are_set_by_name_without_touching_the_list(iris: Data) -> None:
    estimators = [NB, TREE]
    ensemble = EnsembleClassifier(estimators)
    ensemble.set_params(nb=KNeighborsClassifier(), nb__n_neighbors=3)
    assert ensemble.get_params()["nb__n_neighbors"] == 3
    assert estimators == [NB, TREE]
    ensemble.set_params(estimators=[NB], nb__var_smoothing=0.5)
    assert ensemble.estimators[0][1].var_smoothing == 0.5
    NB[1].set_params(var_smoothing=1e-9)
    assert "nb" not in ensemble.get_params(deep=False)
    with pytest.raises(ValueError, match="Invalid parameter 'gone'"):
        ensemble.set_params(gone=1)


@pytest.mark.parametrize("where", ["fit", "fold"])
def test_a_member_that_fails_to_fit_stops_all_or_is_left_out(
    where: str, iris: Data
) -> None:
    X, y = iris
    members = [NB, ("fails", Failing(where)), TREE]
    ensemble = EnsembleClassifier(members, rule="mean", weights="convex")
    with pytest.raises(RuntimeError, match=r"raised by member 'fails'"):
        ensemble.fit(X, y)
    ensemble.set_params(on_error="drop")
    with pytest.warns(UserWarning, match="member 'fails' failed and is") as caught:
        ensemble.fit(X, y)
    assert {one.filename for one in caught} == {__file__}
    without = EnsembleClassifier([NB, TREE], rule="mean", weights="convex").fit(X, y)
    assert ensemble.predict_proba(X).tolist() == without.predict_proba(X).tolist()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_member_that_fails_to_predict_is_left_out(n_jobs: int, iris: Data) -> None:
    X, y = iris
    members = [NB, ("fails", Failing()), TREE]
    ensemble = EnsembleClassifier(members, weights=[1, 2, 3], n_jobs=n_jobs).fit(X, y)
    ensemble.named_estimators_["fails"].where = "predict"
    with pytest.raises(RuntimeError, match=r"raised by member 'fails'"):
        ensemble.predict(X)
    ensemble.set_params(on_error="drop")
    with pytest.warns(UserWarning, match="member 'fails' failed and is") as caught:
        found = ensemble.predict_proba(X)
    assert {one.filename for one in caught} == {__file__}
    # The sum of a log-pool's weights says how sure it is: it stays 6.
    without = EnsembleClassifier([NB, TREE], weights=[1.5, 4.5]).fit(X, y)
    assert found == pytest.approx(without.predict_proba(X), abs=1e-12)


@pytest.mark.parametrize("rule", ["product", "log_pool", "mean"])
@pytest.mark.parametrize("weights", [None, [1, 1, 1], [3, 2, 2]])
def test_a_member_may_fail_early_or_late(rule: str, weights: Any, iris: Data) -> None:
    X, y = iris
    said = []
    for where in ("fit", "predict"):
        members = [NB, ("fails", Failing(where)), TREE]
        ensemble = EnsembleClassifier(members, rule=rule, weights=weights)
        ensemble.set_params(on_error="drop")
        with pytest.warns(UserWarning, match="member 'fails' failed"):
            said.append(ensemble.fit(X, y).predict_proba(X))
    assert said[0] == pytest.approx(said[1], abs=1e-15)


@pytest.mark.parametrize("rule", ["log_pool", "mean"])
@pytest.mark.parametrize("where", ["fit", "predict"])
def test_weights_of_both_signs_are_not_turned_around(
    rule: str, where: str, iris: Data
) -> None:
    X, y = iris
    members = [("fails", Failing(where)), NB, TREE]
    ensemble = EnsembleClassifier(members, rule=rule, on_error="drop")
    message = rf"weights of '{rule}' must have a positive sum.*found \[-1.0, -1.0\] of"
    with (
        pytest.warns(UserWarning, match="member 'fails' failed"),
        pytest.raises(ValueError, match=message),
    ):
        ensemble.set_params(weights=[3, -1, -1]).fit(X, y).predict(X)
    with pytest.warns(UserWarning, match="member 'fails' failed"):
        found = ensemble.set_params(weights=[-1, 3, 1]).fit(X, y).predict_proba(X)
    # The sum of a log-pool's weights is kept, with their signs.
    without = EnsembleClassifier([NB, TREE], rule=rule, weights=[2.25, 0.75])
    assert found == pytest.approx(without.fit(X, y).predict_proba(X), abs=1e-12)


def test_a_member_without_weight_is_not_asked(iris: Data) -> None:
    X, y = iris
    members = [("fails", Failing()), NB]
    ensemble = EnsembleClassifier(members, rule="mean", weights=[0, 1]).fit(X, y)
    ensemble.named_estimators_["fails"].where = "predict"
    expected = GaussianNB().fit(X, y).predict_proba(X)
    assert ensemble.predict_proba(X) == pytest.approx(expected)


def test_ranks_go_with_the_members_that_are_left(iris: Data) -> None:
    X, y = iris
    members = [("fails", Failing()), NB]
    ensemble = EnsembleClassifier(
        members, rule="rank_mean", weights=None, on_error="drop"
    ).fit(X, y)
    ensemble.named_estimators_["fails"].where = "predict"
    alone = EnsembleClassifier([NB], rule="rank_mean", weights=None).fit(X, y)
    with pytest.warns(UserWarning, match="member 'fails' failed"):
        found = ensemble.predict_proba(X)
    assert found == pytest.approx(alone.predict_proba(X))


def test_somebody_must_be_left(iris: Data) -> None:
    X, y = iris
    members = [("fails", Failing("fit")), ("too", Failing("fit"))]
    ensemble = EnsembleClassifier(members, on_error="drop", weights=None, rule="mean")
    message = (
        "at least one member must succeed, but all failed: 'fails' with RuntimeErr"
    )
    with pytest.raises(ValueError, match=message):
        ensemble.fit(X, y)
    ensemble.set_params(too=GaussianNB(), weights=[1, 0])
    with (
        pytest.warns(UserWarning, match="member 'fails' failed"),
        pytest.raises(ValueError, match="must have a positive sum, also without"),
    ):
        ensemble.fit(X, y)


def test_members_fitted_before_are_taken_as_they_are(iris: Data) -> None:
    X, y = iris
    member = Counting(label="prefit").fit(X, y)
    Counting.fits.clear()
    ensemble = EnsembleClassifier([("nb", member)], cv="prefit", weights=None)
    assert ensemble.fit(X, y).estimators_[0] is member
    with pytest.warns(UserWarning, match="must not have seen these data") as caught:
        ensemble.set_params(weights="convex").fit(X, y)
    assert {one.filename for one in caught} == {__file__}
    frozen = EnsembleClassifier([("nb", FrozenEstimator(member))], rule="mean")
    with pytest.warns(UserWarning, match="must not have seen these data"):
        frozen.fit(X, y)
    assert Counting.fits.total() == 0
    assert frozen.oof_[0] == pytest.approx(member.predict_proba(X))


def test_members_that_should_be_fitted_are_named_if_not(iris: Data) -> None:
    ensemble = EnsembleClassifier([NB], cv="prefit", weights=None)
    with pytest.raises(ValueError, match="member 'nb' must be fitted for cv='prefit'"):
        ensemble.fit(*iris)
    ensemble.set_params(cv=5, nb=FrozenEstimator(GaussianNB()))
    with pytest.raises(ValueError, match=r"raised by member 'nb'"):
        ensemble.fit(*iris)


def test_prefit_members_that_fail_are_left_out(iris: Data) -> None:
    X, y = iris
    failing = Failing().fit(X, y)
    failing.where = "predict"
    members = [("fails", failing), ("nb", GaussianNB().fit(X, y))]
    ensemble = EnsembleClassifier(members, cv="prefit", on_error="drop")
    with (
        pytest.warns(UserWarning, match="member 'fails' failed"),
        pytest.warns(UserWarning, match="must not have seen these data"),
    ):
        ensemble.fit(X, y)
    assert ensemble.oof_.shape == (1, 150, 3)


def test_parallel_members_answer_the_same(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE], calibrate="sigmoid")
    expected = ensemble.fit(X, y).predict_proba(X).tolist()
    assert ensemble.set_params(n_jobs=2).fit(X, y).predict_proba(X).tolist() == expected


def test_warnings_point_at_who_called_fit(iris: Data) -> None:
    twins = [("out", "drop"), ("a", GaussianNB()), ("b", GaussianNB())]
    message = (
        r"selection 'greedy' did not beat the best member: .* \(member 'a' on all data"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        EnsembleClassifier(twins, rule="mean", weights="greedy").fit(*iris)
    assert {one.filename for one in caught} == {__file__}


def test_progress_is_reported_by_member_and_fold(iris: Data) -> None:
    callback = pytest.importorskip("sklearn.callback")

    class Listener:
        heard: Any = []  # noqa: RUF012  # a callback is copied with its estimator

        def setup(self, estimator: Any, context: Any) -> None: ...
        def teardown(self, estimator: Any, context: Any) -> None: ...
        def on_fit_task_begin(self, estimator: Any, context: Any) -> None: ...
        def on_fit_task_end(self, estimator: Any, context: Any) -> None:
            self.heard.append((context.task_name, context.max_subtasks))

    listener = Listener()
    assert isinstance(listener, callback.FitCallback)
    ensemble = EnsembleClassifier([NB, TREE], cv=2).set_callbacks(listener)
    ensemble.fit(*iris)
    folds = [f"{name}{fold}" for name in ("nb", "tree") for fold in ("", *FOLDS)]
    assert listener.heard == [*((name, 0) for name in folds), ("fit", 6)]


FOLDS = (", fold 1", ", fold 2")


def test_dataframes_and_sparse_matrices_reach_members_as_they_are(iris: Data) -> None:
    from scipy import sparse

    X, y = iris
    ensemble = EnsembleClassifier([("counts", MultinomialNB()), TREE])
    expected = ensemble.fit(X, y).predict_proba(X)
    for kind in (sparse.csr_array, sparse.coo_array):
        found = ensemble.fit(kind(X), y).predict_proba(kind(X))
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_dataframes_are_taken(package: str, iris: Data) -> None:
    frames = pytest.importorskip(package)
    X, y = iris
    frame = frames.DataFrame({f"column {i}": X[:, i] for i in range(4)})
    ensemble = EnsembleClassifier([NB, TREE]).fit(frame, frames.Series(y))
    expected = EnsembleClassifier([NB, TREE]).fit(X, y).predict_proba(X)
    assert ensemble.predict_proba(frame) == pytest.approx(expected)


def test_columns_of_dataframes_are_known(iris: Data) -> None:
    pandas = pytest.importorskip("pandas")
    X, y = iris
    frame = pandas.DataFrame({f"column {i}": X[:, i] for i in range(4)})
    ensemble = EnsembleClassifier([NB, TREE]).fit(frame, y)
    assert ensemble.feature_names_in_.tolist() == list(frame.columns)
    assert ensemble.estimators_[1].feature_names_in_.tolist() == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        ensemble.predict(frame[list(frame.columns)[::-1]])


def test_predict_holds_one_members_answer_at_a_time(iris: Data) -> None:
    alive: list[weakref.ref[Any]] = []

    class Watched(GaussianNB):
        def predict_proba(self, X: Any) -> Any:
            assert not any(known() is not None for known in alive)
            shares = super().predict_proba(X)
            alive.append(weakref.ref(shares))
            return shares

    members = [(name, Watched()) for name in "abcd"]
    ensemble = EnsembleClassifier(members, rule="mean", weights=None).fit(*iris)
    ensemble.predict_proba(iris[0])
    assert len(alive) == len(members)


@pytest.mark.parametrize("n_jobs", [None, 1])
def test_one_job_alone_is_not_handed_to_joblib(
    n_jobs: int | None, iris: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **params: Any) -> Any:
        raise AssertionError("joblib was asked")

    monkeypatch.setattr(fitting, "Parallel", refuse)
    ensemble = EnsembleClassifier([NB, TREE], n_jobs=n_jobs).fit(*iris)
    ensemble.predict(iris[0][:1])
    with pytest.raises(AssertionError, match="joblib was asked"):
        ensemble.set_params(n_jobs=2).predict(iris[0])
    with (
        joblib.parallel_config("threading", n_jobs=2),
        pytest.raises(AssertionError, match="joblib was asked"),
    ):
        ensemble.set_params(n_jobs=None).predict(iris[0])


@pytest.mark.filterwarnings("ignore:weights and calibration are learned from")
def test_fitted_members_get_the_data_without_a_copy(iris: Data) -> None:
    seen: list[Any] = []

    class Looking(GaussianNB):
        def predict_proba(self, X: Any) -> Any:
            seen.append(X)
            return super().predict_proba(X)

    X, y = iris
    ensemble = EnsembleClassifier([("a", Looking().fit(X, y))], cv="prefit").fit(X, y)
    assert seen[0] is X
    assert len(ensemble.oof_[0]) == len(X)
