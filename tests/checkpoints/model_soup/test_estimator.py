"""Model soups as scikit-learn's estimators."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    LinearRegression,
    LogisticRegression,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    ShuffleSplit,
    cross_validate,
    train_test_split,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles.checkpoints import (
    ModelSoup,
    average,
    get_state,
    register_state,
    train_members,
    train_snapshots,
)
from ensembles.checkpoints.parameters.builtin import attribute_access
from ensembles.checkpoints.parameters.table import STATES, ParameterAccess
from ensembles.rules import Rule

X, y = load_digits(return_X_y=True)
X = X / 16
X_train, X_held, y_train, y_held = train_test_split(X, y, random_state=0)
RIDE = pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
UNFINISHED = "ignore::sklearn.exceptions.ConvergenceWarning"


@pytest.fixture(scope="module")
def members() -> list[Any]:
    """Continuations of one start, the last of them bad."""
    start = SGDClassifier(random_state=0, max_iter=5, tol=None).fit(X_train, y_train)
    found = []
    for seed in range(4):
        member = copy.deepcopy(start)
        rng = np.random.default_rng(seed)
        for _ in range(3):
            order = rng.permutation(len(X_train))
            member.partial_fit(X_train[order], y_train[order])
        found.append(member)
    found[3].coef_ = found[3].coef_ + np.random.default_rng(9).normal(
        scale=20, size=found[3].coef_.shape
    )
    return found


def frozen(members: list[Any]) -> list[Any]:
    return [FrozenEstimator(member) for member in members]


def test_equal_weights_are_the_average(members: list[Any]) -> None:
    soup = ModelSoup(SGDClassifier(), members).fit()
    expected = average([get_state(member) for member in members])
    np.testing.assert_array_equal(soup.estimator_.coef_, expected["coef_"])
    assert soup.weights_.tolist() == [1, 1, 1, 1]
    assert soup.scores_ is soup.best_index_ is soup.soup_score_ is None
    assert soup.history_ == ()
    assert soup.classes_.tolist() == list(range(10))
    assert soup.n_features_in_ == 64


def test_given_weights_and_a_rule_are_those_of_average(members: list[Any]) -> None:
    for rule, weights in (("mean", [3, 0, 1, 0.5]), ("median", [3, 0, 1, 0.5])):
        soup = ModelSoup(SGDClassifier(), members, rule=rule, weights=weights).fit()
        states = [get_state(member) for member in members]
        expected = average(states, rule=rule, weights=weights)
        np.testing.assert_array_equal(soup.estimator_.coef_, expected["coef_"])


@RIDE
def test_the_greedy_soup_is_the_published_one(members: list[Any]) -> None:
    soup = ModelSoup(SGDClassifier(), members, weights="greedy_soup")
    soup.fit(X_held, y_held)

    def score(kept: list[int]) -> float:
        found = copy.deepcopy(members[0])
        mean = average([get_state(members[place]) for place in kept])
        found.coef_, found.intercept_ = mean["coef_"], mean["intercept_"]
        return float(found.score(X_held, y_held))

    own = [score([place]) for place in range(4)]
    order = sorted(range(4), key=lambda place: -own[place])
    kept, best = [order[0]], own[order[0]]
    for place in order[1:]:
        if score([*kept, place]) >= best:
            kept.append(place)
            best = score(kept)
    assert np.flatnonzero(soup.weights_).tolist() == sorted(kept)
    assert 3 not in kept
    assert soup.soup_score_ == best
    assert soup.scores_.tolist() == own
    assert soup.best_index_ == order[0]
    assert len(soup.history_) == 4
    assert soup.score(X_held, y_held) == best


@RIDE
@pytest.mark.parametrize(
    ("weights", "params"),
    [
        ("greedy", {"n_rounds": 6}),
        ("best", {}),
        ("top_k", {"k": 2}),
        ("top_k", {}),
        ("convex", {}),
        ("optuna", {"n_trials": 5}),
    ],
)
def test_every_selection_gives_the_soup_that_it_scored(
    weights: str, params: dict[str, Any], members: list[Any]
) -> None:
    soup = ModelSoup(
        SGDClassifier(), members, weights=weights, weights_params=params, random_state=0
    )
    soup.fit(X_held, y_held)
    assert soup.score(X_held, y_held) == soup.soup_score_
    assert soup.weights_.sum() == pytest.approx(1)
    if weights == "top_k":  # of those that score best alone
        some = np.flatnonzero(soup.weights_)
        assert len(some) == params.get("k", len(some))
        assert soup.scores_[some].min() >= np.sort(soup.scores_)[-len(some)]
        assert np.unique(soup.weights_[some]).size == 1
    else:
        assert soup.soup_score_ >= soup.scores_.max()


@RIDE
def test_wise_ft_goes_from_the_base_to_the_members(members: list[Any]) -> None:
    base = SGDClassifier(random_state=0).fit(X_train[:100], y_train[:100])
    soup = ModelSoup(SGDClassifier(), members[:2], weights="wise_ft", base=base)
    soup.set_params(weights_params={"alphas": [0, 0.25, 1]}).fit(X_held, y_held)
    alpha = soup.weights_.sum()
    states = [get_state(one) for one in (base, *members[:2])]
    expected = average(states, weights=[1 - alpha, alpha / 2, alpha / 2])
    np.testing.assert_allclose(soup.estimator_.coef_, expected["coef_"], rtol=1e-13)
    assert soup.base_score_ == base.score(X_held, y_held)
    assert [trial.weights.sum() for trial in soup.history_] == [0, 0.25, 1]
    assert soup.scores_.shape == (2,)


def test_scores_may_be_those_of_weights_that_are_given(members: list[Any]) -> None:
    soup = ModelSoup(SGDClassifier(), members[:2], scoring="accuracy")
    soup.fit(X_held, y_held)
    assert soup.scores_.tolist() == [m.score(X_held, y_held) for m in members[:2]]
    assert soup.soup_score_ == soup.score(X_held, y_held)


def test_scores_are_means_over_what_is_held_out(members: list[Any]) -> None:
    cv = ShuffleSplit(3, random_state=0)
    soup = ModelSoup(SGDClassifier(), members[:2], scoring="accuracy", cv=cv)
    soup.fit(X_held, y_held)
    parts = [test for _, test in cv.split(X_held)]
    expected = np.mean([members[0].score(X_held[p], y_held[p]) for p in parts])
    assert soup.scores_[0] == pytest.approx(expected, abs=1e-15)


def test_paths_are_put_into_a_frozen_estimator(
    members: list[Any], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{place}.safetensors" for place in range(3)]
    for path, member in zip(paths, members, strict=False):
        save_file(get_state(member), path)
    soup = ModelSoup(FrozenEstimator(members[3]), paths).fit()
    expected = ModelSoup(SGDClassifier(), members[:3]).fit()
    np.testing.assert_array_equal(
        soup.decision_function(X_held), expected.decision_function(X_held)
    )
    with pytest.raises(ValueError, match=r"SGDClassifier must have parameters"):
        ModelSoup(SGDClassifier(), paths).fit()


def test_a_search_goes_over_rules_weights_and_subsets(members: list[Any]) -> None:
    some = frozen(members[:3])
    grid = {
        "rule": ["mean", "median"],
        "weights": [None, [1, 2, 3], "greedy_soup"],
        "checkpoints": [some, [*some[1:], some[0]]],
    }
    soup = ModelSoup(SGDClassifier(), some, random_state=0)
    search = GridSearchCV(soup, grid, cv=2, error_score="raise")
    with pytest.warns(UserWarning, match="did not beat the best member"):
        search.fit(X_held, y_held)
    assert len(search.cv_results_["params"]) == 12
    assert search.best_estimator_.score(X_held, y_held) > 0.9
    drawn = RandomizedSearchCV(soup, grid, n_iter=2, cv=2, random_state=0)
    with pytest.warns(UserWarning, match="did not beat the best member"):
        drawn.set_params(n_iter=6).fit(X_held, y_held)


def test_metadata_go_where_they_are_asked_for() -> None:
    weight = np.random.default_rng(0).uniform(size=len(X_held))
    with sklearn.config_context(enable_metadata_routing=True):
        inner = SGDClassifier(random_state=0).set_fit_request(sample_weight=True)
        soup = ModelSoup(inner, n_members=2, random_state=0)
        found = cross_validate(
            soup,
            X_held,
            y_held,
            params={"sample_weight": weight},
            cv=3,
            return_estimator=True,
            error_score="raise",
        )
        plain = ModelSoup(SGDClassifier(random_state=0), n_members=2, random_state=0)
        without = cross_validate(plain, X_held, y_held, cv=3, return_estimator=True)
    weighted, bare = (run["estimator"][0].estimator_.coef_ for run in (found, without))
    assert not np.array_equal(weighted, bare)


@RIDE
def test_sample_weights_reach_members_that_are_trained_on_a_part() -> None:
    weight = np.zeros(len(X_held))
    weight[y_held < 5] = 1
    soup = ModelSoup(SGDClassifier(), weights="top_k", n_members=2, random_state=0)
    soup.fit(X_held, y_held, sample_weight=weight)
    assert (soup.predict(X_held[y_held < 5]) < 5).mean() > 0.99
    assert set(np.unique(soup.predict(X_held))) <= {0, 1, 2, 3, 4}


def test_scorers_that_ask_get_their_metadata(members: list[Any]) -> None:
    weight = np.zeros(len(X_held))
    weight[:50] = 1
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        soup = ModelSoup(SGDClassifier(), members[:2], scoring=scorer)
        soup.fit(X_held, y_held, sample_weight=weight)
        expected = members[0].score(X_held[:50], y_held[:50])
        assert soup.scores_[0] == pytest.approx(expected, abs=1e-15)


def test_a_clone_is_free_and_not_fitted(tmp_path: Path) -> None:
    soup = ModelSoup(SGDClassifier(), [tmp_path / "nowhere.safetensors"])
    found = clone(soup)
    assert found.checkpoints == soup.checkpoints
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        ModelSoup(LinearRegression().fit(X, y), found.checkpoints).fit()


def test_frames_come_out_where_they_are_asked_for() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X_held, columns=[f"pixel {place}" for place in range(64)])
    soup = ModelSoup(StandardScaler(), n_members=2, random_state=0)
    for found in (
        soup.set_output(transform="pandas").fit_transform(frame),
        clone(soup).fit(frame).transform(frame),
        make_pipeline(soup).set_output(transform="pandas").fit_transform(frame),
    ):
        assert isinstance(found, pandas.DataFrame)
        assert list(found.columns) == list(frame.columns)
    assert list(soup.feature_names_in_) == list(frame.columns)
    assert list(soup.get_feature_names_out()) == list(frame.columns)
    polars = soup.fit(frame).set_output(transform="polars").transform(frame)
    assert type(polars).__module__.startswith("polars")
    np.testing.assert_allclose(soup.inverse_transform(polars), X_held, atol=1e-12)


def test_steps_of_a_pipeline_give_frames_where_they_are_asked_for() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X_held, columns=[f"pixel {place}" for place in range(64)])
    fitted = [make_pipeline(StandardScaler()).fit(frame) for _ in range(2)]
    soup = ModelSoup(make_pipeline(StandardScaler()), fitted)
    soup.set_output(transform="pandas")
    assert isinstance(soup.fit().transform(frame), pandas.DataFrame)


def test_a_soup_draws_itself_in_html() -> None:
    soup = ModelSoup(SGDClassifier(alpha=0.125), n_members=2, random_state=0)
    assert "SGDClassifier" in soup._repr_html_()
    assert "0.125" in soup.fit(X_held, y_held)._repr_html_()


def test_methods_are_those_of_the_estimator() -> None:
    assert hasattr(ModelSoup(MLPClassifier()), "predict_proba")
    assert not hasattr(ModelSoup(SGDClassifier()), "predict_proba")
    assert not hasattr(ModelSoup(SGDRegressor()), "decision_function")
    assert not hasattr(ModelSoup(StandardScaler()), "predict")
    assert not hasattr(ModelSoup(StandardScaler()), "score")
    soup = ModelSoup(SGDClassifier(loss="log_loss"), n_members=2, random_state=0)
    soup.fit(X_held, y_held)
    np.testing.assert_array_equal(
        np.log(soup.predict_proba(X_held)), soup.predict_log_proba(X_held)
    )


@pytest.mark.filterwarnings(UNFINISHED)
@pytest.mark.parametrize("seed", range(5))
def test_on_digits_the_soup_is_not_below_its_best_member(seed: int) -> None:
    parts = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)
    members = train_members(
        MLPClassifier(), parts[0], parts[2], n_epochs=3, random_state=seed
    )
    soup = ModelSoup(MLPClassifier(), members).fit()
    best = max(member.score(parts[1], parts[3]) for member in members)
    assert soup.score(parts[1], parts[3]) >= best - 0.005


@pytest.mark.filterwarnings(UNFINISHED)
@pytest.mark.filterwarnings("ignore:.* the same initialization")
def test_networks_that_differ_in_seed_alone_are_refused() -> None:
    members = [
        MLPClassifier(max_iter=60, random_state=seed).fit(X_train, y_train)
        for seed in range(3)
    ]
    # What it would cost: see how far below its members their plain average is.
    mean = copy.deepcopy(members[0])
    state = average([get_state(member) for member in members])
    mean.coefs_ = [state["coefs_.0"], state["coefs_.1"]]
    mean.intercepts_ = [state["intercepts_.0"], state["intercepts_.1"]]
    assert mean.score(X_held, y_held) < members[0].score(X_held, y_held) - 0.1
    with pytest.raises(ValueError, match=r"same initialization, checkpoints\[1\] and"):
        ModelSoup(MLPClassifier(), members).fit()


def test_members_of_one_run_are_its_last_epochs() -> None:
    first, again = (
        train_snapshots(SGDClassifier(), X_train, y_train, n_members=3, random_state=0)
        for _ in range(2)
    )
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.coef_, other.coef_)
    assert not np.array_equal(first[0].coef_, first[1].coef_)
    soup = ModelSoup(SGDClassifier(), first).fit()
    assert soup.score(X_held, y_held) > 0.9


def test_what_cannot_go_on_is_fitted_once_and_says_so() -> None:
    features, target = load_diabetes(return_X_y=True)
    soup = ModelSoup(LinearRegression(), random_state=0)
    with pytest.warns(UserWarning, match="neither partial_fit nor warm_start"):
        soup.fit(features, target)
    expected = LinearRegression().fit(features, target).predict(features)
    np.testing.assert_array_equal(soup.predict(features), expected)
    assert soup.weights_.tolist() == [1]


class Stepping(LinearRegression):
    """Goes on in a way of its own."""


def test_a_registered_way_to_go_on_is_taken() -> None:
    state = attribute_access("coef_", "intercept_")

    def advance(member: Any, X: Any, y: Any, rng: np.random.Generator) -> None:
        member.intercept_ += rng.integers(1, 100)

    register_state(Stepping, state.get, state.set, continue_training=advance)
    features, target = load_diabetes(return_X_y=True)
    soup = ModelSoup(Stepping(), n_members=3, random_state=0).fit(features, target)
    start = Stepping().fit(features, target)
    assert soup.weights_.tolist() == [1, 1, 1]
    assert soup.estimator_.intercept_ > start.intercept_ + 1


def test_seeds_are_drawn_unless_they_are_set() -> None:
    start = SGDClassifier(max_iter=2, tol=None)
    one, other, same = (
        ModelSoup(start, n_members=2, random_state=seed).fit(X_held, y_held)
        for seed in (0, 1, np.random.RandomState(1))
    )
    assert not np.array_equal(one.estimator_.coef_, other.estimator_.coef_)
    assert same.weights_.tolist() == [1, 1]
    assert start.random_state is None


def test_seeds_of_the_estimator_hold_where_the_soup_has_none() -> None:
    start = SGDClassifier(max_iter=2, tol=None, random_state=3)
    own = ModelSoup(start, n_members=2).fit(X_held, y_held)
    assert own.estimator_.random_state == 3
    one, other = (
        ModelSoup(start, n_members=2, random_state=seed).fit(X_held, y_held)
        for seed in (0, 1)
    )
    assert not np.array_equal(one.estimator_.coef_, other.estimator_.coef_)


def test_what_goes_on_by_a_warm_start_is_left_as_it_was() -> None:
    start = LogisticRegression(solver="saga", max_iter=3)
    with pytest.warns(ConvergenceWarning):
        soup = ModelSoup(start, n_members=2, random_state=0).fit(X_held, y_held)
    assert soup.estimator_.warm_start is False
    with pytest.warns(ConvergenceWarning):
        once = clone(start).fit(X_held, y_held)
    assert not np.array_equal(soup.estimator_.coef_, once.coef_)


def test_members_that_any_order_leads_to_one_place_are_told() -> None:
    soup = ModelSoup(LogisticRegression(max_iter=3), n_members=2, random_state=0)
    with (
        pytest.warns(ConvergenceWarning),
        pytest.warns(
            UserWarning, match="all members are equal: LogisticRegression end"
        ),
    ):
        soup.fit(X_held, y_held)


def test_counts_of_training_must_be_integers() -> None:
    functions: list[Any] = [train_members, train_snapshots]
    for train in functions:
        with pytest.raises(ValueError, match="n_epochs must be an integer of at least"):
            train(SGDClassifier(), X_held, y_held, n_epochs=0.5)


def test_snapshots_of_a_fit_that_cannot_go_on_are_one() -> None:
    with pytest.warns(UserWarning, match="neither partial_fit nor warm_start"):
        found = train_snapshots(LinearRegression(), X_held, y_held)
    assert len(found) == 1


def test_parameters_must_be_a_dict() -> None:
    for name in ("rule_params", "weights_params"):
        soup = ModelSoup(SGDClassifier()).set_params(**{name: 3})
        with pytest.raises(TypeError, match=f"{name} must be a dict or None, found 3"):
            soup.fit(X_held, y_held)
    with pytest.raises(TypeError, match="finish must be callable or None, found 3"):
        ModelSoup(SGDClassifier(), finish=3).fit(X_held, y_held)


def test_parameters_of_a_rule_reach_it(members: list[Any]) -> None:
    states = [get_state(member) for member in members[:3]]
    params = {"proportion": 0.4}
    soup = ModelSoup(
        SGDClassifier(), members[:3], rule="trimmed_mean", rule_params=params
    )
    expected = average(states, rule="trimmed_mean", rule_params=params)
    np.testing.assert_array_equal(soup.fit().estimator_.coef_, expected["coef_"])


def test_a_pickle_holds_the_parameters(members: list[Any], tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{place}.safetensors") for place in range(2)]
    for path, member in zip(paths, members, strict=False):
        save_file(get_state(member), path)
    soup = ModelSoup(FrozenEstimator(members[0]), paths, weights=[1, 3]).fit()
    whole = pickle.loads(pickle.dumps(soup))
    np.testing.assert_array_equal(
        whole.decision_function(X_held), soup.decision_function(X_held)
    )


def test_trees_are_refused_before_they_are_fitted() -> None:
    with pytest.raises(TypeError, match="trees of different members have no nodes"):
        ModelSoup(DecisionTreeClassifier()).fit(X, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"checkpoints": []}, "at least one member"),
        ({"n_members": 0}, "n_members must be an integer of at least 1, found 0"),
        (
            {"weights_params": {"n_round": 3}},
            "weights_params has no 'n_round' with weights=None .known: none",
        ),
        (
            {"weights": "greedy", "weights_params": {"n_round": 3}},
            "selection 'greedy' has no parameter 'n_round' .known: n_rounds, pat",
        ),
        (
            {"weights": "greedy", "rule_params": {"n_rounds": 3}},
            "'n_rounds' does not belong in rule_params: use weights_params",
        ),
        (
            {"rule": "power_mean", "weights_params": {"p": 3}},
            "'p' does not belong in weights_params: use rule_params",
        ),
        (
            {"rule_params": {"integers": "max"}},
            "'integers' does not belong in rule_params: use a parameter of ModelSoup",
        ),
        ({"rule_params": {"q": 3}}, "rule 'mean' has no parameter 'q' .known: none"),
        ({"integers": "last"}, "integers must be one of 'error', 'first', 'max', fo"),
        ({"shared_init": True}, "shared_init must be one of None, 'error', 'warn'"),
        ({"on_error": "skip"}, "on_error must be one of 'raise', 'drop', found 'skip'"),
        ({"weights": "gready"}, "unknown selection 'gready'; did you mean 'greedy'"),
        ({"weights": [1, 2]}, "one number for each member: found 2 for 5 members"),
        ({"weights": "wise_ft"}, "needs checkpoints and their base"),
        ({"rule": "slerp"}, "rule 'slerp' needs 2 members, found 5"),
        ({"weights": "greedy", "cv": 5}, "cv must have one split .* found 5 splits"),
    ],
)
def test_wrong_parameters_are_told(params: dict[str, Any], message: str) -> None:
    soup = ModelSoup(SGDClassifier(), random_state=0).set_params(**params)
    with pytest.raises(ValueError, match=message):
        soup.fit(X_held, y_held)


def test_a_base_without_a_use_is_told(members: list[Any]) -> None:
    with pytest.raises(ValueError, match="or a rule that needs a base only, found the"):
        ModelSoup(SGDClassifier(), members, base=members[0]).fit()


def test_a_choice_needs_data(members: list[Any]) -> None:
    with pytest.raises(ValueError, match="on data, found X=None; call fit"):
        ModelSoup(SGDClassifier(), members, weights="greedy_soup").fit()


def test_a_list_of_scores_is_refused(members: list[Any]) -> None:
    soup = ModelSoup(SGDClassifier(), members, scoring=["accuracy", "f1"])
    with pytest.raises(
        TypeError, match=r"scoring must be a single name, .* found \['acc"
    ):
        soup.fit(X_held, y_held)


def test_members_that_know_other_classes_are_refused(members: list[Any]) -> None:
    other = SGDClassifier().fit(X_held, y_held + 1)
    with pytest.raises(ValueError, match=r"in classes_: checkpoints\[1\] has \[ 1"):
        ModelSoup(SGDClassifier(), [members[0], other]).fit()


def test_members_of_another_kind_are_refused(members: list[Any]) -> None:
    other = LogisticRegression(max_iter=5)
    with pytest.warns(ConvergenceWarning):
        other.fit(X_held, y_held)
    message = r"one kind, SGDClassifier: checkpoints\[1\] is of type {}"
    for found in (other, None, 3):
        with pytest.raises(TypeError, match=message.format(type(found).__name__)):
            ModelSoup(SGDClassifier(), [members[0], found]).fit()
    with pytest.raises(TypeError, match=message[:20]):
        ModelSoup(SGDClassifier(), [other]).fit()


def test_members_that_are_not_fitted_are_told(members: list[Any]) -> None:
    soup = clone(ModelSoup(SGDClassifier(), members))
    with pytest.raises(ValueError, match=r"checkpoints\[0\] must be fitted: this SGD"):
        soup.fit()


def test_members_that_saw_columns_in_another_order_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X_held[:, :3], columns=["a", "b", "c"])
    found = [
        SGDClassifier(random_state=0).fit(frame[list(names)], y_held)
        for names in ("abc", "cab")
    ]
    with pytest.raises(ValueError, match=r"agree in feature_names_in_: checkpoints"):
        ModelSoup(SGDClassifier(), found).fit()


@pytest.mark.filterwarnings(UNFINISHED)
def test_networks_of_other_activations_are_refused() -> None:
    relu, tanh = (
        MLPClassifier((8,), activation=name, max_iter=2).fit(X_held, y_held)
        for name in ("relu", "tanh")
    )
    with pytest.raises(ValueError, match="estimator's activation, 'relu': the first"):
        ModelSoup(MLPClassifier(), [tanh]).fit()
    with pytest.raises(ValueError, match=r"agree in activation: checkpoints\[1\] has"):
        ModelSoup(MLPClassifier(), [relu, tanh]).fit()


@pytest.mark.filterwarnings(UNFINISHED)
@pytest.mark.parametrize("width", [4, 16, 64])
def test_networks_of_any_width_from_other_seeds_are_refused(width: int) -> None:
    parts = (StandardScaler(), MLPClassifier((width,), max_iter=15, random_state=0))
    first = make_pipeline(*parts).fit(X_held, y_held)
    for seed in range(1, 5):
        other = clone(first).set_params(mlpclassifier__random_state=seed)
        other.fit(X_held, y_held)
        for members in ([first, other], [first[1], other[1]]):
            with pytest.raises(ValueError, match="same initialization"):
                ModelSoup(members[0], members).fit()


def test_settings_are_those_of_the_estimator(members: list[Any]) -> None:
    soup = ModelSoup(SGDClassifier(loss="log_loss"), members[:2]).fit()
    assert soup.predict_proba(X_held).shape == (len(X_held), 10)
    assert members[0].loss == "hinge"


@pytest.mark.parametrize("weights", [[0.3, 0.7, 0.1], [1 / 3, 1 / 3, 1 / 3], [2, 1, 1]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_given_weights_have_the_bytes_of_average(
    weights: list[float], dtype: type, members: list[Any]
) -> None:
    states = [
        {name: value.astype(dtype) for name, value in get_state(member).items()}
        for member in members[:3]
    ]
    home = copy.deepcopy(members[0])
    home.coef_, home.intercept_ = states[0]["coef_"], states[0]["intercept_"]
    soup = ModelSoup(FrozenEstimator(home), states, weights=weights).fit()
    expected = average(states, weights=weights)
    assert soup.estimator_.coef_.tobytes() == expected["coef_"].tobytes()


def test_frames_come_out_of_members_that_are_given() -> None:
    fitted = [StandardScaler().fit(X_held[place::2]) for place in range(2)]
    soup = ModelSoup(StandardScaler(), fitted).set_output(transform="pandas").fit()
    assert type(soup.transform(X_held)).__name__ == "DataFrame"


@RIDE
@pytest.mark.filterwarnings(UNFINISHED)
def test_what_stops_early_goes_on_by_a_warm_start() -> None:
    net = MLPClassifier((8,), early_stopping=True, max_iter=5)
    soup = ModelSoup(net, n_members=2, random_state=0)
    assert soup.fit(X_held, y_held).weights_.tolist() == [1, 1]


@RIDE
@pytest.mark.filterwarnings(UNFINISHED)
def test_targets_that_cannot_be_divided_by_class_are_divided_by_chance() -> None:
    several = np.stack([y_held > 4, y_held % 2], axis=1).astype(int)
    lone = np.where(np.arange(len(y_held)) == 7, 10, y_held)
    for targets in (several, lone):
        net = MLPClassifier((8,), max_iter=3)
        soup = ModelSoup(net, weights="best", n_members=2, random_state=0)
        soup.fit(X_held, targets)
        assert soup.soup_score_ == soup.scores_.max()


def test_weights_reach_the_score_of_the_estimator_by_routing() -> None:
    weight = np.random.default_rng(0).uniform(size=len(X_held))
    with sklearn.config_context(enable_metadata_routing=True):
        inner = SGDClassifier(random_state=0)
        inner.set_fit_request(sample_weight=False).set_score_request(sample_weight=True)
        soup = ModelSoup(inner, n_members=2, random_state=0)
        params = {"sample_weight": weight}
        weighted = cross_validate(soup, X_held, y_held, params=params, cv=2)
        plain = cross_validate(soup, X_held, y_held, cv=2)
        assert weighted["test_score"].tolist() != plain["test_score"].tolist()


def test_nothing_is_dropped_in_silence(members: list[Any]) -> None:
    with pytest.raises(TypeError, match="trains nothing that takes sample_weight"):
        ModelSoup(SGDClassifier(), members).fit(X_held, y_held, sample_weight=y_held)


def test_members_of_other_shapes_are_refused(members: list[Any]) -> None:
    state = {
        name: value[:, :5] if value.ndim > 1 else value
        for name, value in get_state(members[0]).items()
    }
    with pytest.raises(ValueError, match=r"tensor 'coef_': the estimator has shape"):
        ModelSoup(SGDClassifier(), [members[0], state]).fit()


def test_members_of_other_names_are_refused(members: list[Any]) -> None:
    state = get_state(members[0])
    with pytest.raises(
        ValueError, match="coefs do not; the estimator has coef_, interc"
    ):
        ModelSoup(SGDClassifier(), [members[0], {"coefs": state["coef_"]}]).fit()
    with pytest.raises(ValueError, match=r"lacks parameters .*: intercept_"):
        ModelSoup(SGDClassifier(), [members[0], {"coef_": state["coef_"]}]).fit()


def test_a_generator_or_a_mapping_is_no_sequence_of_members(members: list[Any]) -> None:
    for found in (iter(members), {"a": members[0]}, set(members), "epochs"):
        with pytest.raises(
            TypeError, match="must be a sequence of members, such as a l"
        ):
            ModelSoup(SGDClassifier(), found).fit()
    ModelSoup(SGDClassifier(), np.array(members, object)).fit()


def test_a_device_is_for_modules_alone(members: list[Any]) -> None:
    with pytest.raises(
        ValueError, match="device must be None for SGDClassifier, which"
    ):
        ModelSoup(SGDClassifier(), members, device="cuda").fit()


@RIDE
def test_what_a_scorer_does_to_the_estimator_is_undone(members: list[Any]) -> None:
    def meddling(estimator: Any, X: Any, y: Any) -> float:
        value = float(estimator.score(X, y))
        estimator.partial_fit(X[:50], y[:50])
        return value

    # What is chosen is what was scored last.
    ordered = sorted(members, key=lambda member: member.score(X_held, y_held))
    soup = ModelSoup(SGDClassifier(), ordered, weights="best", scoring=meddling)
    soup.fit(X_held, y_held)
    assert soup.best_index_ == 3
    np.testing.assert_array_equal(soup.estimator_.coef_, ordered[3].coef_)


@RIDE
@pytest.mark.parametrize("seed", range(6))
def test_a_class_of_few_samples_is_never_held_out_whole(seed: int) -> None:
    labels = y.copy()
    labels[7], labels[8:10] = 99, 100
    soup = ModelSoup(
        SGDClassifier(max_iter=2, tol=None),
        n_members=2,
        weights="greedy_soup",
        random_state=seed,
    )
    assert set(soup.fit(X, labels).classes_) == {*range(10), 99, 100}


@RIDE
def test_more_classes_than_samples_held_out_will_do() -> None:
    rows = np.concatenate([np.flatnonzero(y == label)[:3] for label in range(10)])
    soup = ModelSoup(
        SGDClassifier(loss="log_loss"),
        n_members=2,
        weights="greedy_soup",
        random_state=0,
    )
    assert list(soup.fit(X[rows], y[rows]).classes_) == list(range(10))


@RIDE
def test_members_of_a_frozen_estimator_go_on_from_its_fit() -> None:
    start = SGDClassifier(random_state=0).fit(X_train, y_train)
    before = start.coef_.copy()
    soup = ModelSoup(FrozenEstimator(start), n_members=2, random_state=0)
    soup.fit(X_held[:20], y_held[:20])
    assert set(soup.classes_) == set(range(10)) > set(y_held[:3])
    assert soup.score(X_held, y_held) > 0.9
    assert not np.array_equal(soup.estimator_.coef_, before)
    np.testing.assert_array_equal(start.coef_, before)


def test_a_frozen_start_must_be_fitted() -> None:
    with pytest.raises(NotFittedError, match="This SGDClassifier instance is not fit"):
        ModelSoup(FrozenEstimator(SGDClassifier())).fit(X_held, y_held)


@RIDE
def test_a_fit_that_fails_leaves_the_one_before(members: list[Any]) -> None:
    soup = ModelSoup(SGDClassifier(), members[:3], weights="greedy_soup")
    soup.fit(X_held, y_held)
    before = soup.estimator_.coef_.copy()
    soup.set_params(rule="median")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        soup.fit(X_held, y_held[:-1])
    np.testing.assert_array_equal(soup.estimator_.coef_, before)


def test_hundreds_of_members_take_the_memory_that_they_need(
    members: list[Any],
) -> None:
    soup = ModelSoup(SGDClassifier(), members[:1] * 600).fit()
    np.testing.assert_allclose(soup.estimator_.coef_, members[0].coef_, rtol=1e-14)
    # And of tensors larger than a block, which the usual memory has no room for.
    state = {"w": np.arange(70000.0)}

    class Wide(dict[str, Any]):
        """Holds one tensor."""

    wide = Wide(state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STATES, Wide, ParameterAccess(dict, Wide.update))
        soup = ModelSoup(wide, [Wide(state) for _ in range(130)]).fit()
    np.testing.assert_allclose(soup.estimator_["w"], state["w"], rtol=1e-14)


def test_of_many_members_each_once_the_order_is_theirs(members: list[Any]) -> None:
    rng = np.random.default_rng(0)
    many = []
    for _ in range(60):
        member = copy.deepcopy(members[0])
        member.coef_ = member.coef_ + rng.normal(size=member.coef_.shape)
        many.append(member)
    # Each is better alone than the one before it, and all together best.
    score = dict.fromkeys(range(60), 0.0)
    kept: list[float] = []

    def growing(estimator: Any, X: Any, y: Any) -> float:
        alone = [np.array_equal(estimator.coef_, member.coef_) for member in many]
        if any(alone):
            return float(alone.index(True))
        kept.append(1.0)
        return 100.0 + len(kept)

    soup = ModelSoup(SGDClassifier(), many, weights="greedy_soup", scoring=growing)
    soup.fit(X_held, y_held)
    assert len(score) == np.count_nonzero(soup.weights_) == 60
    expected = average([get_state(member) for member in reversed(many)])
    np.testing.assert_array_equal(soup.estimator_.coef_, expected["coef_"])


@pytest.mark.parametrize("kind", [StandardScaler, MinMaxScaler, MaxAbsScaler])
def test_scalers_go_on_from_their_soup(kind: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3))
    fitted = [kind().fit(rows), kind().fit(1.3 * rows)]
    found = ModelSoup(kind(), fitted).fit().estimator_
    before = found.transform(rows).std(0)
    after = found.partial_fit(rows[:1]).transform(rows).std(0)
    first = fitted[0].transform(rows).std(0)
    assert (np.abs(after - before) < 0.35 * np.abs(first - before)).all()


@pytest.mark.parametrize("kind", [BayesianRidge, ARDRegression])
def test_a_mean_of_bayesian_lines_does_not_say_how_sure_it_is(kind: Any) -> None:
    features, target = load_diabetes(return_X_y=True)
    fitted = [kind().fit(features[:n], target[:n]) for n in (200, 400)]
    soup = ModelSoup(kind(), fitted).fit()
    mean = np.mean([one.predict(features) for one in fitted], axis=0)
    np.testing.assert_allclose(soup.predict(features), mean)
    with pytest.raises(AttributeError, match="sigma_"):
        soup.predict(features, return_std=True)


def _largest(stack: Any, weights: Any) -> Any:
    return stack.max(axis=0)


def test_a_custom_rule_named_mean_is_not_the_mean() -> None:
    _largest.__name__ = "mean"
    states = [
        {"coef_": np.full(2, value), "intercept_": np.array(value)}
        for value in (1.0, 2.0, 6.0)
    ]
    start = FrozenEstimator(LinearRegression().fit(np.eye(2), [1.0, 2.0]))
    soup = ModelSoup(start, states, rule=Rule(_largest)).fit()
    assert soup.estimator_.coef_.tolist() == [6, 6]


def test_an_error_of_a_rule_names_the_parameter() -> None:
    states = [
        {"coef_": np.full(2, value), "intercept_": np.array(1.0)}
        for value in (1.0, -2.0)
    ]
    start = FrozenEstimator(LinearRegression().fit(np.eye(2), [1.0, 2.0]))
    with pytest.raises(ValueError, match=r"^tensor 'coef_': entries for rule"):
        ModelSoup(start, states, rule="power_mean").fit()
