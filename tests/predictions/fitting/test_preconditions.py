"""Mistakes that are told before any member is fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GroupKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from ensembles.predictions import (
    EnsembleClassifier,
    EnsembleRegressor,
    EnsembleTransformer,
)
from tests.predictions.doubles import Counting

Data = tuple[Any, Any]
FIRST = ("first", Counting(label="first"))
NB = ("nb", GaussianNB())

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


def needs_X(member: Any, X: Any, y: Any) -> float:
    return float(X.columns is None)


def by_row(member: Any, X: Any, y: Any) -> float:
    return float(X["age"][0])


@pytest.fixture(autouse=True)
def no_fit() -> Any:
    Counting.fits.clear()
    yield
    assert Counting.fits.total() == 0


GREEDY = {"rule": "mean", "weights": "greedy"}


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        ({"scoring": "roc_aucc"}, ValueError, "'roc_aucc'"),
        (
            {"scoring": "roc_auc"},
            ValueError,
            "scoring 'roc_auc' failed on synthetic predictions",
        ),
        (
            {"scoring": ["accuracy"]},
            TypeError,
            r"scoring must be the name of one scorer, .*\['ac",
        ),
        (
            {"scoring": {"a": "accuracy"}},
            TypeError,
            "scoring must be the name of one scorer",
        ),
        (
            {"scoring": "f1"},
            ValueError,
            "'f1' failed .*'f1_macro'|Target is multiclass",
        ),
        (
            {"scoring": needs_X},
            AttributeError,
            "combined predictions replace X, which is not",
        ),
        (
            {"scoring": by_row},
            IndexError,
            "combined predictions replace X, which is not",
        ),
        (
            {"weights_params": {"n_rounds": 0}},
            ValueError,
            "n_rounds, patience and n_init must",
        ),
        (
            {"weights_params": {"n_rounds": "5"}},
            TypeError,
            "n_rounds must be an integer",
        ),
        ({"weights_params": {"fraction": 2}}, ValueError, r"fraction in \(0, 1\]"),
        (
            {"weights_params": "n_bags=3"},
            TypeError,
            r"weights_params must be a dict .*found 'n_bags=3'",
        ),
        (
            {"weights_params": [("n_bags", 3)]},
            TypeError,
            "weights_params must be a dict",
        ),
        ({"random_state": "x"}, TypeError, "random_state must be an integer, a G"),
        ({"random_state": -1}, ValueError, "random_state must not be negative, found"),
        (
            {"weights": "top_k", "weights_params": {"k": 9}},
            ValueError,
            "k must be from 1 to",
        ),
        ({"rule": "soft"}, ValueError, "unknown rule 'soft'; did you mean 'mean'?"),
        ({"rule": "hard"}, ValueError, "unknown rule 'hard'; did you mean 'vote'?"),
        ({"rule": "max"}, ValueError, "unknown rule 'max'; did you mean 'maximum'?"),
        ({"weights": "fre"}, ValueError, r"unknown selection 'fre' \(known: best, co"),
        ({"weights": "caruana"}, ValueError, "did you mean 'greedy'?"),
        ({"weights": "uniform"}, ValueError, "use weights=None for equal weights"),
        ({"cv": GroupKFold(3)}, ValueError, "must get groups: "),
        ({"cv": 1}, ValueError, "n_splits=1"),
        ({"memory": 5}, ValueError, "memory"),
    ],
)
def test_a_mistake_costs_no_fit(
    params: dict[str, Any], kind: type[Exception], message: str, iris: Data
) -> None:
    params = {**GREEDY, **params}
    if "random_state" in params:
        params["weights_params"] = {"n_bags": 2}
    with pytest.raises(kind, match=message):
        EnsembleClassifier([FIRST, NB], **params).fit(*iris)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"rule_params": {"n_bags": 3}},
            r"rule 'mean' \(known: none\): found 'n_bags'; it is a parameter of "
            "weights='greedy' of rule 'mean': pass it in weights_params instead",
        ),
        (
            {"rule": "geometric_mean", "weights_params": {"floor": 0.1}},
            r"\(known: n_rounds, .*\): found 'floor'; it is a parameter of rule "
            "'geometric_mean': pass it in rule_params instead",
        ),
        (
            {"weights": None, "weights_params": {"n_bags": 3}},
            r"weights=None of rule 'mean' \(known: none\): found 'n_bags'$",
        ),
    ],
)
def test_an_unknown_parameter_is_told_where_it_belongs(
    params: dict[str, Any], message: str, iris: Data
) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleClassifier([FIRST, NB], **{**GREEDY, **params}).fit(*iris)


def test_selections_that_are_known_go_with_the_rule(iris: Data) -> None:
    message = r"'fre'; did you mean 'free'\? \(known: best, convex, free, greedy, gre"
    with pytest.raises(ValueError, match=message) as caught:
        EnsembleClassifier([FIRST, NB], weights="fre").fit(*iris)
    assert "wise_ft" not in str(caught.value)


def test_a_positive_class_is_asked_for_by_name(iris: Data) -> None:
    X, y = iris[0], np.array(["no", "yes"])[(iris[1] == 2) * 1]
    ensemble = EnsembleClassifier([FIRST, NB], **GREEDY, scoring="f1")
    message = r"failed .*name the positive class, .*make_scorer\(f1_score, pos_label='y"
    with pytest.raises(ValueError, match=message):
        ensemble.fit(X, y)
    named = make_scorer(f1_score, pos_label="yes")
    ensemble = EnsembleClassifier([("a", KNeighborsClassifier()), NB], **GREEDY)
    assert ensemble.set_params(scoring=named).fit(X, y).oof_score_ > 0.8


def test_a_member_that_cannot_take_weights_costs_no_fit(iris: Data) -> None:
    members = [("first", Failing()), ("near", KNeighborsClassifier())]
    with pytest.raises(
        TypeError, match="member 'near' must accept sample_weight in fit"
    ):
        EnsembleClassifier(members).fit(*iris, sample_weight=np.ones(150))


class Failing(GaussianNB):
    """Would take hours."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        raise AssertionError("this was fitted")


@pytest.mark.parametrize("member", [StandardScaler(), LinearSVC()], ids=repr)
def test_a_member_that_cannot_predict_costs_no_fit(member: Any, iris: Data) -> None:
    X, y = iris
    last = ("last", member)
    if isinstance(member, StandardScaler):
        with pytest.raises(ValueError, match="member 'last' must have predict_proba"):
            EnsembleClassifier([FIRST, last]).fit(X, y)
        tree = ("first", DecisionTreeRegressor())
        with pytest.raises(
            ValueError, match="member 'last' must have a predict method: Stand"
        ):
            EnsembleRegressor([tree, last]).fit(X, y)
    else:
        with pytest.raises(
            ValueError, match="member 'last' must have a transform method: Lin"
        ):
            EnsembleTransformer([("first", StandardScaler()), last]).fit(X, y)


@pytest.mark.parametrize(
    "scoring",
    [
        "neg_mean_squared_log_error",
        "neg_mean_poisson_deviance",
        "neg_mean_gamma_deviance",
        "r2",
        "neg_max_error",
    ],
)
def test_scorers_of_positive_values_are_no_mistake(
    scoring: str, rng: np.random.Generator
) -> None:
    X = rng.uniform(1, 2, size=(60, 2))
    members = [
        ("a", DecisionTreeRegressor(max_depth=2)),
        ("b", DecisionTreeRegressor()),
    ]
    ensemble = EnsembleRegressor(members, weights="greedy", scoring=scoring)
    assert np.isfinite(ensemble.fit(X, X.sum(axis=1)).oof_score_)


@pytest.mark.parametrize(
    "scoring", ["f1_macro", "balanced_accuracy", "matthews_corrcoef", "roc_auc_ovo"]
)
def test_scorers_of_classes_are_no_mistake(scoring: str, iris: Data) -> None:
    members = [("near", KNeighborsClassifier()), NB]
    ensemble = EnsembleClassifier(members, **GREEDY, scoring=scoring)
    assert ensemble.fit(*iris).oof_score_ > 0.8
    assert ensemble.set_params(random_state=np.random.RandomState(0)).fit(*iris)


def test_a_class_in_place_of_a_member_costs_no_fit(iris: Data) -> None:
    message = r"member 'last' must be an estimator, not a class: pass GaussianNB\(\)"
    for ensemble in (EnsembleClassifier, EnsembleTransformer):
        with pytest.raises(TypeError, match=message):
            ensemble([FIRST, ("last", GaussianNB)]).fit(*iris)


def of_quality(member: Any, X: Any, y: Any) -> float:
    accuracy = float(np.mean(member.predict(X) == y))
    assert accuracy > 0.6, "worse than is of use"
    return accuracy


def by_tenths(member: Any, X: Any, y: Any) -> float:
    first = member.predict_proba(X)[:, 0]
    edges = np.quantile(first, np.linspace(0, 1, 11))
    if len(np.unique(edges)) < len(edges):
        raise ValueError("edges must be unique")
    return float(np.mean(member.predict(X) == y))


@pytest.mark.parametrize("scoring", [of_quality, by_tenths])
def test_a_scorer_that_fails_on_some_made_up_predictions_is_no_mistake(
    scoring: Any,
) -> None:
    X, y = make_classification(200, 6, n_informative=4, flip_y=0, random_state=0)
    members = [("lr", LogisticRegression()), ("flat", LogisticRegression(C=0.01))]
    ensemble = EnsembleClassifier(members, rule="mean", weights="greedy")
    assert ensemble.set_params(scoring=scoring).fit(X, y).oof_score_ > 0.6


@pytest.mark.parametrize("temperature", ["1", None, True, 0, np.nan])
def test_a_wrong_temperature_costs_no_fit(temperature: Any, iris: Data) -> None:
    ensemble = EnsembleClassifier([FIRST, NB], weights=None)
    ensemble.set_params(rule_params={"temperature": temperature})
    with pytest.raises((TypeError, ValueError), match="temperature must be "):
        ensemble.fit(*iris)
