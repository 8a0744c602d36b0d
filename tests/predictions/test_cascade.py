"""Cascades: the labels of the ensemble, from fewer predictions of its members."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import (
    load_digits,
    make_classification,
    make_multilabel_classification,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from ensembles._typing import Float64
from ensembles.predictions import CascadeClassifier, EnsembleClassifier
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.margins import estimate_stopping
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.stopping import Cascade

pytestmark = pytest.mark.filterwarnings("ignore:selection .* did not beat")
RULES = ["mean", "vote", "geometric_mean", "log_pool", "product"]


def trees(n_members: int, **params: Any) -> list[tuple[str, Any]]:
    return [
        (f"tree {k}", DecisionTreeClassifier(random_state=k, max_features=9, **params))
        for k in range(n_members)
    ]


@pytest.fixture(scope="module")
def digits() -> Any:
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, random_state=0)


def cascade_of(
    seed: int, rule: str, n_members: int, margin: float | None = None
) -> tuple[Cascade, Float64]:
    """A cascade with random weights and intercepts, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(1, 4))
    stack = rng.dirichlet(np.full(n_classes, 0.3), (n_members, 40))
    if rng.random() < 0.5:
        stack = rng.multinomial(2, np.ones(n_classes) / n_classes, stack.shape[:2]) / 2
    if rule == "vote":
        stack = np.eye(n_classes)[stack.argmax(axis=2)] == 1
    outputs = ClassOutputs([np.arange(n_classes)], False, False, False, "error")
    if rng.random() < 0.5:
        outputs = outputs._replace(thresholds=[rng.dirichlet(np.full(n_classes, 4))])
    combiner = FittedCombiner(resolve_combiner(rule), {}, outputs)
    if combiner.combiner.weight_sum_matters and rng.random() < 0.5:
        combiner = FittedCombiner(
            combiner.combiner, {}, outputs, None, [rng.normal(size=n_classes)]
        )
    weights = rng.integers(0, 4, n_members) / rng.choice([1.0, 7.0])
    weights[0] = 1.0
    order = [int(k) for k in rng.permutation(np.flatnonzero(weights))]
    return Cascade(combiner, weights, order, margin), stack


def run(cascade: Cascade, stack: Any) -> Any:
    return cascade.run(lambda i, rows: [stack[i][rows]], stack.shape[1])


@given(st.integers(0, 2**32 - 1), st.sampled_from(RULES), st.integers(1, 9))
def test_labels_are_those_of_all_members(seed: int, rule: str, n_members: int) -> None:
    cascade, stack = cascade_of(seed, rule, n_members)
    full = cascade.combiner([list(stack)], cascade.weights)
    expected = cascade.combiner.outputs.to_targets(full)
    assert (cascade.labels(run(cascade, stack)) == expected).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(RULES), st.integers(2, 9))
def test_no_prediction_of_the_other_members_changes_a_label(
    seed: int, rule: str, n_members: int
) -> None:
    cascade, stack = cascade_of(seed, rule, n_members)
    result = run(cascade, stack)
    n_classes = stack.shape[2]
    for target in range(n_classes):
        changed = stack.copy()
        for step, member in enumerate(cascade.order):
            rows = result.n_members <= step
            changed[member, rows] = np.eye(n_classes)[target]
        full = cascade.combiner([list(changed)], cascade.weights)
        expected = cascade.combiner.outputs.to_targets(full)
        assert (expected == cascade.labels(result)).all()


def test_a_vote_stops_at_the_majority() -> None:
    outputs = ClassOutputs([np.arange(2)], False, False, True, "error")
    combiner = FittedCombiner(resolve_combiner("vote"), {}, outputs)
    votes = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1]])
    cascade = Cascade(combiner, np.ones(5), list(range(5)), None)
    assert run(cascade, np.eye(2)[votes] == 1).n_members.tolist() == [3, 3, 5]


def test_a_margin_stops_at_the_difference_times_the_share_of_the_weight() -> None:
    outputs = ClassOutputs([np.arange(3)], False, False, False, "error")
    combiner = FittedCombiner(resolve_combiner("mean"), {}, outputs)
    stack = np.array([[[0.6, 0.3, 0.1]] * 2, [[0.8, 0.2, 0.0], [0.2, 0.8, 0.0]]])
    cascade = Cascade(combiner, np.ones(2), [0, 1], 0.16)
    result = run(cascade, stack)
    assert result.n_members.tolist() == [2, 2]
    np.testing.assert_allclose(result.scores[0], [[0.7, 0.25, 0.05], [0.4, 0.55, 0.05]])
    early = run(Cascade(combiner, np.ones(2), [0, 1], 0.15), stack)
    assert early.n_members.tolist() == [1, 1]
    np.testing.assert_allclose(early.scores[0], stack[0])


def test_float32_ties_are_those_of_the_ensemble() -> None:
    """Probabilities that differ in float64 are equal in float32: the first class."""
    outputs = ClassOutputs([np.arange(2)], False, False, False, "error")
    combiner = FittedCombiner(resolve_combiner("mean"), {}, outputs)
    half = np.float32(0.5)
    below = np.nextafter(half, np.float32(0))
    stack = np.array([[[half, half]], [[below, half]], [[half, half]]], np.float32)
    weights = np.array([0.9, 0.1, 1e-10])
    result = run(Cascade(combiner, weights, [0, 1, 2], None), stack)
    full = combiner([list(stack)], weights)[0].astype(np.float32)
    assert full[0, 0] == full[0, 1]
    assert result.scores[0].argmax(1) == 0


@pytest.mark.parametrize(
    ("rule", "weights"), [*((rule, None) for rule in RULES), ("log_pool", "convex")]
)
def test_the_estimator_predicts_as_the_ensemble(
    rule: str, weights: Any, digits: Any
) -> None:
    X, X_test, y, _ = digits
    members = trees(6, max_depth=6)
    cascade = CascadeClassifier(members, rule=rule, weights=weights, cv=2).fit(X, y)
    ensemble = EnsembleClassifier(members, rule=rule, weights=weights, cv=2).fit(X, y)
    prediction = cascade.predict_cascade(X_test)
    assert (prediction.labels == ensemble.predict(X_test)).all()
    np.testing.assert_array_equal(
        cascade.predict_proba(X_test), ensemble.predict_proba(X_test)
    )
    assert cascade.order_.tolist() == [
        k for k in cascade.order_ if cascade.weights_[k] != 0
    ]
    assert 1 <= prediction.mean_members <= np.count_nonzero(cascade.weights_)
    assert prediction.mean_members == prediction.n_members.mean()


@pytest.mark.parametrize(("rule", "margin"), [("mean", None), ("log_pool", "auto")])
def test_thresholds_are_those_of_the_ensemble(rule: str, margin: Any) -> None:
    X, y = make_classification(900, weights=[0.9], flip_y=0.1, random_state=0)
    params: dict[str, Any] = {"rule": rule, "scoring": "balanced_accuracy", "cv": 3}
    cascade = CascadeClassifier(
        trees(7, max_depth=4), margin=margin, tolerance=0.01, **params
    ).fit(X[:600], y[:600])
    ensemble = EnsembleClassifier(trees(7, max_depth=4), **params).fit(X[:600], y[:600])
    assert cascade.thresholds_ is not None
    assert cascade.thresholds_.tolist() == ensemble.thresholds_.tolist()
    prediction = cascade.predict_cascade(X[600:])
    changed = (prediction.labels != ensemble.predict(X[600:])).mean()
    assert changed <= (0 if margin is None else 0.04)
    assert prediction.mean_members < np.count_nonzero(cascade.weights_)
    assert (prediction.labels != cascade.predict_proba(X[600:]).argmax(axis=1)).any()


def test_half_of_the_votes_are_saved_if_members_agree(digits: Any) -> None:
    X, X_test, y, _ = digits
    same = [(str(k), DecisionTreeClassifier(random_state=0)) for k in range(9)]
    cascade = CascadeClassifier(same, rule="vote", weights=None).fit(X, y)
    prediction = cascade.predict_cascade(X_test)
    assert set(prediction.n_members) == {5}
    assert prediction.cost_share == pytest.approx(5 / 9)


def test_a_learned_margin_keeps_to_the_tolerance(digits: Any) -> None:
    X, X_test, y, _ = digits
    params: dict[str, Any] = {"rule": "mean", "weights": None, "cv": 3}
    ensemble = EnsembleClassifier(trees(8), rule="mean", weights=None).fit(X, y)
    expected = ensemble.predict(X_test)
    shares, members = [], []
    for tolerance in (0.0, 0.02, 0.5):
        cascade = CascadeClassifier(
            trees(8), margin="auto", tolerance=tolerance, **params
        ).fit(X, y)
        prediction = cascade.predict_cascade(X_test)
        assert cascade.changed_share_ <= tolerance + 0.005
        assert abs((prediction.labels != expected).mean() - tolerance) < 0.02 + (
            tolerance > 0.1
        )
        assert abs(prediction.mean_members - cascade.mean_members_) < 0.7
        assert (
            cascade.predict_proba(X_test).argmax(axis=1)
            == np.searchsorted(cascade.classes_, prediction.labels)
        ).all()
        shares.append(cascade.changed_share_)
        members.append(prediction.mean_members)
    assert shares == sorted(shares)
    assert members == sorted(members, reverse=True)
    assert members[1] < 5 < members[0] < 8


def test_an_impossible_tolerance_evaluates_all_members() -> None:
    """Labels of two constant members that only the last one decides."""
    outputs = ClassOutputs([np.arange(2)], False, False, False, "error")
    combiner = FittedCombiner(resolve_combiner("mean"), {}, outputs)
    stack = np.array([[[1.0, 0.0]] * 20, [[0.0, 1.0]] * 20])
    cascade = Cascade(combiner, np.array([9.0, 10.0]), [0, 1], None)
    held_out = OutOfFold([stack], np.arange(20) % 2, outputs, None)
    estimate = estimate_stopping(cascade, held_out, 0.0)
    assert estimate.margin == 0.48  # above 9 / 19
    assert set(estimate.n_members) == {2}
    certain = OutOfFold([stack[:, :, ::-1] * 0 + [1.0, 0.0]], held_out.y, outputs, None)
    assert estimate_stopping(cascade, certain, 0.0).margin == 0.0


def test_members_of_more_value_for_their_cost_come_first(digits: Any) -> None:
    X, _, y, _ = digits
    members = [("nb", GaussianNB()), *trees(2), ("stump", trees(1, max_depth=1)[0][1])]
    params: dict[str, Any] = {"rule": "mean", "weights": None, "margin": "auto"}
    cascade = CascadeClassifier(members, **params).fit(X, y)
    assert cascade.order_[-1] == 3  # of little certainty
    cascade.set_params(costs=[1, 1, 1, 0.001]).fit(X, y)
    assert cascade.order_[0] == 3
    cascade.set_params(costs="time").fit(X, y)
    assert (cascade.costs_ > 0).all()
    assert cascade.order_[0] in (1, 2, 3)  # naive Bayes takes the most time


def test_given_costs_are_those_of_the_remaining_members(iris: Any) -> None:
    members = [("a", GaussianNB()), ("b", "drop"), ("c", trees(1, max_depth=2)[0][1])]
    cascade = CascadeClassifier(
        members, rule="vote", weights=[1, 1, 1], costs=[3, 1, 2], rule_params=None
    )
    cascade.set_params(estimators=[(n, _two_columns(m)) for n, m in members])
    assert cascade.fit(*iris).costs_.tolist() == [3, 2]
    assert cascade.order_.tolist() == [1, 0]


def _two_columns(member: Any) -> Any:
    return member.set_params(max_features=2) if hasattr(member, "max_depth") else member


def test_several_targets_stop_when_all_are_decided() -> None:
    X, y = make_multilabel_classification(
        300, 9, n_classes=3, allow_unlabeled=False, random_state=0
    )
    members = trees(7, max_depth=4)
    cascade = CascadeClassifier(members, rule="vote", weights=None).fit(X, y)
    ensemble = EnsembleClassifier(members, rule="vote", weights=None).fit(X, y)
    prediction = cascade.predict_cascade(X)
    assert (prediction.labels == ensemble.predict(X)).all()
    assert 4 <= prediction.mean_members < 7


def test_frozen_members_are_evaluated_as_they_are(digits: Any) -> None:
    X, X_test, y, y_test = digits
    members = [(n, FrozenEstimator(m.fit(X, y))) for n, m in trees(5)]
    cascade = CascadeClassifier(
        members, rule="mean", weights=None, margin="auto", cv="prefit"
    )
    with pytest.warns(UserWarning, match="must not have seen these data"):
        cascade.fit(X_test, y_test)
    assert cascade.mean_members_ == pytest.approx(
        cascade.predict_cascade(X_test).mean_members, abs=0.5
    )


@pytest.mark.parametrize("kind", ["sparse", "frame", "texts"])
def test_rows_of_any_container_are_selected(kind: str) -> None:
    texts = ["good film", "bad film", "good", "bad", "a film", "no film at all"] * 6
    y = np.array(["yes", "no", "yes", "no", "yes", "no"] * 6)
    counts = CountVectorizer().fit_transform(texts)
    X: Any = {
        "sparse": counts,
        "frame": pd.DataFrame(counts.toarray()).add_prefix("word "),
        "texts": texts,
    }[kind]
    members = [(str(a), MultinomialNB(alpha=a)) for a in (0.1, 1.0, 9.0)]
    if kind == "texts":
        members = [(n, make_pipeline(CountVectorizer(), m)) for n, m in members]
    cascade = CascadeClassifier(members, rule="vote", weights=None).fit(X, y)
    ensemble = EnsembleClassifier(members, rule="vote", weights=None).fit(X, y)
    prediction = cascade.predict_cascade(X)
    assert (prediction.labels == ensemble.predict(X)).all()
    assert 2 <= prediction.mean_members < 3


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"margin": 1.5}, "margin must be between 0 and 1, found 1.5"),
    ({"margin": "best"}, "margin must be one of 'auto', None, found 'best'"),
    ({"margin": True}, "margin must be a number, found True"),
    ({"tolerance": -1}, "tolerance must be between 0 and 1, found -1"),
    ({"tolerance": None}, "tolerance must be a number, found None"),
    ({"costs": [1, 2, 3]}, "costs must be one positive number for each of the 2"),
    ({"costs": [1, 0]}, "costs must be one positive number for each of the 2"),
    ({"costs": "wall"}, "costs must be one of 'time', None, found 'wall'"),
    ({"rule": "median"}, "the rule of a cascade must be one of geometric_mean, log_po"),
    ({"rule": "borda"}, "'borda' does not rank the classes by a sum"),
    ({"weights": "free", "margin": "auto"}, "must not be negative with a margin"),
    ({"rule": "mean", "weights": [2, -1]}, "negative with a margin, or with rule 'mea"),
]


@pytest.mark.parametrize(("params", "message"), WRONG)
def test_wrong_parameters_are_refused(params: Any, message: str, iris: Any) -> None:
    members = [("nb", GaussianNB()), ("tree", DecisionTreeClassifier())]
    with pytest.raises((ValueError, TypeError), match=message):
        CascadeClassifier(members, **params).fit(*iris)


def test_probabilities_above_one_are_refused() -> None:
    cascade, stack = cascade_of(3, "mean", 3)
    with pytest.raises(ValueError, match=r"must be at most 1 for a cascade .* 2"):
        run(cascade, stack * 0 + 2)


def test_rules_without_a_sum_stop_at_a_margin(digits: Any) -> None:
    X, X_test, y, _ = digits
    cascade = CascadeClassifier(
        trees(6, max_depth=6), rule="median", weights=None, margin=0.3
    ).fit(X, y)
    assert 2 < cascade.predict_cascade(X_test).mean_members < 6


def test_negative_weights_of_a_pool_are_bounded_by_their_magnitude(
    digits: Any,
) -> None:
    X, X_test, y, _ = digits
    members = [("lr", LogisticRegression()), *trees(2, max_depth=4)]
    cascade = CascadeClassifier(members, weights=[2, 1, -0.5]).fit(X / 16, y)
    ensemble = EnsembleClassifier(members, weights=[2, 1, -0.5]).fit(X / 16, y)
    assert (cascade.predict(X_test / 16) == ensemble.predict(X_test / 16)).all()
