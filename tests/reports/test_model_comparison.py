"""Tables of estimators, each row against the same model measured alone."""

from __future__ import annotations

import warnings
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import accuracy_score, log_loss, make_scorer, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

from ensembles.checkpoints import ModelSoup, get_state
from ensembles.predictions import EnsembleClassifier, EnsembleRegressor
from ensembles.reports import Comparison, ComparisonRow, compare

X, Y = load_digits(return_X_y=True)
X = X / 16
TRAIN, SELECT, TEST = slice(0, 500), slice(500, 900), slice(900, 1300)
SELECTION: dict[str, Any] = {"X_select": X[SELECT], "y_select": Y[SELECT]}
FAST: dict[str, Any] = {"n_repeats": 1, "n_resamples": 50}


@cache
def networks(n_members: int = 4) -> list[MLPClassifier]:
    """Networks fine-tuned from one initialization."""
    start = MLPClassifier((16,), random_state=0, learning_rate_init=0.01)
    for _ in range(10):
        start.partial_fit(X[TRAIN], Y[TRAIN], classes=np.arange(10))
    members = [deepcopy(start) for _ in range(n_members)]
    for seed, member in enumerate(members):
        rows = np.random.default_rng(seed).choice(500, 200, replace=False)
        for _ in range(4):
            member.partial_fit(X[rows], Y[rows])
    return members


def rows_of(comparison: Comparison) -> dict[str, ComparisonRow]:
    return {row.model: row for row in comparison.rows}


@cache
def comparison() -> Comparison:
    return compare(networks(), X[TEST], Y[TEST], **SELECTION, is_run=True, n_repeats=1)


def test_the_score_of_each_row_is_that_of_the_model_alone() -> None:
    members, rows = networks(), rows_of(comparison())
    named = [(f"member {n}", FrozenEstimator(m)) for n, m in enumerate(members)]
    soups = {
        "uniform soup": None,
        "greedy soup": "greedy_soup",
        "mean of the last 2": [0, 0, 1, 1],
        "EMA, half-life 1 checkpoint": [1 / 8, 1 / 4, 1 / 2, 1],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = {
            name: ModelSoup(members[0], members, weights=weights).fit(
                X[SELECT], Y[SELECT]
            )
            for name, weights in soups.items()
        }
        equal = VotingClassifier(named, voting="soft").fit(X[SELECT], Y[SELECT])
        fitted = EnsembleClassifier(named, cv="prefit").fit(X[SELECT], Y[SELECT])
    models |= {"prediction ensemble": equal, "fitted ensemble": fitted, **dict(named)}
    assert set(models) == set(rows)
    for name, model in models.items():
        expected = accuracy_score(Y[TEST], model.predict(X[TEST]))
        assert rows[name].score == pytest.approx(expected, abs=1e-12), name
    weights = fitted.weights_[fitted.weights_ != 0]
    np.testing.assert_allclose(rows["fitted ensemble"].weights, weights)


def test_intervals_are_those_of_a_loop_over_resamples() -> None:
    table = comparison()
    draws = np.random.default_rng(0)
    rows = [draws.integers(400, size=(64, 400)) for _ in range(15)]
    rows.append(draws.integers(400, size=(40, 400)))
    y_pred = [member.predict(X[TEST]) for member in networks()]
    best = next(i for i, row in enumerate(table.rows) if row.is_best_member)
    correct = [[float(a == b) for a, b in zip(p, Y[TEST], strict=True)] for p in y_pred]
    for index, row in enumerate(table.rows[:4]):
        scores, gains = [], []
        for drawn in np.concatenate(rows):
            mean = sum(correct[index][i] for i in drawn) / 400
            scores.append(mean)
            gains.append(mean - sum(correct[best][i] for i in drawn) / 400)
        expected = np.quantile(scores, [0.025, 0.975])
        assert row.interval == pytest.approx(tuple(expected), abs=1e-12)
        expected = np.quantile(gains, [0.025, 0.975])
        assert row.difference_interval == pytest.approx(tuple(expected), abs=1e-12)


def test_models_are_chosen_on_the_selection_data_alone() -> None:
    members = networks()
    on_selection = [m.score(X[SELECT], Y[SELECT]) for m in members]
    table = comparison()
    (best,) = [row.model for row in table.rows if row.is_best_member]
    assert best == table.reference == f"member {np.argmax(on_selection)}"
    assert rows_of(table)[best].difference == 0
    # Other test data do not change what was chosen.
    other = compare(members, X[1300:], Y[1300:], **SELECTION, **FAST)
    greedy = rows_of(other)["greedy soup"]
    assert greedy.members == rows_of(table)["greedy soup"].members
    assert other.reference == table.reference


def test_without_selection_data_nothing_is_chosen() -> None:
    table = compare(networks(), X[TEST], Y[TEST], **FAST)
    names = {"uniform soup", "prediction ensemble", *(f"member {n}" for n in range(4))}
    assert set(rows_of(table)) == names
    scores = sorted(row.score for row in table.rows[:4])
    (median,) = [row for row in table.rows if row.is_median_member]
    assert median.score == scores[2]
    assert table.reference == median.model
    assert any("pass X_select and y_select" in note for note in table.notes)


def test_an_ensemble_costs_its_members_and_a_soup_one() -> None:
    rows = rows_of(comparison())
    one = rows["member 0"].cost
    assert one.parameters is not None
    assert one.flops is not None
    for name in ("uniform soup", "greedy soup", "mean of the last 2"):
        assert rows[name].cost.n_models == 1
        assert rows[name].cost.parameters == one.parameters
        assert rows[name].cost.flops == one.flops
    ensemble = rows["prediction ensemble"].cost
    assert ensemble.n_models == 4
    assert ensemble.parameters == 4 * one.parameters
    assert ensemble.flops == 4 * one.flops


def test_checkpoints_are_compared_as_their_estimators() -> None:
    states = [get_state(member) for member in networks()]
    table = compare(
        states, X[TEST], Y[TEST], estimator=networks()[0], **SELECTION, **FAST
    )
    scores = {row.model: row.score for row in table.rows}
    expected = rows_of(comparison())
    assert scores == {name: expected[name].score for name in scores}


@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr", "callable"])
def test_any_scorer_can_be_used(scoring: str) -> None:
    scorer = make_scorer(log_loss, response_method="predict_proba", labels=range(10))
    table = compare(
        networks(),
        X[TEST],
        Y[TEST],
        scoring=scorer if scoring == "callable" else scoring,
        n_repeats=1,
        n_resamples=5,
    )
    y_proba = np.mean([member.predict_proba(X[TEST]) for member in networks()], axis=0)
    expected = {
        "neg_log_loss": -log_loss(Y[TEST], y_proba),
        "callable": log_loss(Y[TEST], y_proba),
        "roc_auc_ovr": roc_auc_score(Y[TEST], y_proba, multi_class="ovr"),
    }
    score = rows_of(table)["prediction ensemble"].score
    assert score == pytest.approx(expected[scoring])


def test_regressors_are_compared_by_r2() -> None:
    X, y = load_diabetes(return_X_y=True)
    members = [Ridge(alpha).fit(X[:200], y[:200]) for alpha in (0.01, 0.1, 1)]
    data = {"X_select": X[200:300], "y_select": y[200:300]}
    table = compare(members, X[300:], y[300:], **data, **FAST)
    rows = rows_of(table)
    y_pred = np.mean([member.predict(X[300:]) for member in members], axis=0)
    uniform = ModelSoup(members[0], members).fit()
    expected = uniform.score(X[300:], y[300:])
    assert table.metric == "r2"
    assert rows["uniform soup"].score == pytest.approx(expected)
    # The mean of linear models is the linear model of the mean.
    np.testing.assert_allclose(uniform.predict(X[300:]), y_pred)
    assert rows["prediction ensemble"].score == pytest.approx(expected)
    named = [(str(n), FrozenEstimator(m)) for n, m in enumerate(members)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = EnsembleRegressor(named, cv="prefit").fit(X[200:300], y[200:300])
    score = rows["fitted ensemble"].score
    assert score == pytest.approx(fitted.score(X[300:], y[300:]))


def test_members_that_cannot_be_averaged_have_no_soup() -> None:
    trees = [
        DecisionTreeClassifier(max_depth=4, random_state=n, max_features=8).fit(
            X[TRAIN], Y[TRAIN]
        )
        for n in range(3)
    ]
    table = compare(trees, X[TEST], Y[TEST], **SELECTION, **FAST)
    assert not [row for row in table.rows if row.kind == "soup"]
    assert any("averages of parameters are left out" in note for note in table.notes)
    assert any("nodes in common" in note for note in table.notes)
    assert rows_of(table)["prediction ensemble"].cost.parameters is None


def test_members_of_different_kinds_have_no_soup() -> None:
    members = [networks()[0], LogisticRegression().fit(X[TRAIN], Y[TRAIN])]
    table = compare(members, X[TEST], Y[TEST], **FAST)
    assert not [row for row in table.rows if row.kind == "soup"]


def test_networks_of_different_seeds_have_no_soup() -> None:
    """Public reports: averages of networks from other seeds score like chance."""
    members = [
        MLPClassifier((16,), max_iter=300, tol=1e-2, random_state=seed).fit(
            X[TRAIN], Y[TRAIN]
        )
        for seed in range(2)
    ]
    table = compare(members, X[TEST], Y[TEST], **FAST)
    assert not [row for row in table.rows if row.kind == "soup"]
    assert any("initialization" in note for note in table.notes)


def test_members_without_probabilities_vote() -> None:
    members = [SGDClassifier(random_state=n).fit(X[TRAIN], Y[TRAIN]) for n in range(3)]
    rows = rows_of(table := compare(members, X[TEST], Y[TEST], **SELECTION, **FAST))
    named = [(str(n), FrozenEstimator(m)) for n, m in enumerate(members)]
    voting = VotingClassifier(named, voting="hard").fit(X[SELECT], Y[SELECT])
    expected = voting.score(X[TEST], Y[TEST])
    assert rows["prediction ensemble"].score == pytest.approx(expected)
    assert "fitted ensemble" not in rows
    assert any("majority vote" in note for note in table.notes)
    with pytest.raises(ValueError, match="needs probabilities, which member 0"):
        compare(members, X[TEST], Y[TEST], scoring="neg_log_loss", **FAST)


def test_a_greedy_soup_of_one_is_the_best_member() -> None:
    """Public report: the greedy soup keeps only the best of unequal members."""
    good = networks()[0]
    bad = deepcopy(good)
    bad.intercepts_[-1][0] += 1000  # predicts the first class
    table = compare([good, bad], X[TEST], Y[TEST], **SELECTION, **FAST)
    row = rows_of(table)["greedy soup"]
    assert row.members == ("member 0",)
    assert (row.difference, row.difference_interval) == (0, (0, 0))


def test_resamples_without_a_class_are_left_out_and_counted() -> None:
    """Public reports: a resample of rare classes has no ROC AUC."""
    y = (Y == 3).astype(int)
    members = [LogisticRegression(C=c).fit(X[TRAIN], y[TRAIN]) for c in (0.01, 1)]
    rows = [*np.flatnonzero(y[TEST] == 0)[:30].tolist(), int(y[TEST].argmax())]
    data, options = (X[TEST][rows], y[TEST][rows]), {**FAST, "scoring": "roc_auc"}
    table = compare(members, *data, **options)
    assert table.n_resamples is not None
    assert 25 < table.n_resamples < 45
    assert any("resamples are left out" in note for note in table.notes)


def test_a_score_without_spread_is_noted() -> None:
    """Public report: the interval of a perfect score has no width."""
    members = [LogisticRegression(C=c).fit(X[:99], Y[:99] > 4) for c in (1e3, 1e4)]
    table = compare(members, X[:99], Y[:99] > 4, **FAST)
    assert table.rows[0].interval == (1, 1)
    assert any("zero width" in note for note in table.notes)


def test_a_score_that_is_undefined_is_an_error() -> None:
    """Also on the selection data, where no member would be the best one."""
    y = (Y == 3).astype(int)
    members = [LogisticRegression(C=c).fit(X[TRAIN], y[TRAIN]) for c in (0.01, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"roc_auc of .* 400 .* found nan"):
            compare(members, X[TEST], 0 * y[TEST], scoring="roc_auc", **FAST)
        with pytest.raises(ValueError, match=r"roc_auc of .* 60 .* found nan"):
            compare(
                members,
                X[TEST],
                y[TEST],
                X_select=X[SELECT][:60],
                y_select=0 * y[:60],
                scoring="roc_auc",
                **FAST,
            )


@pytest.mark.parametrize("convert", [np.asarray, pd.DataFrame, np.ndarray.tolist])
def test_selection_samples_that_are_reported_too_are_noted(convert: Any) -> None:
    members = networks()[:2]
    shifted = slice(TEST.start - 30, TEST.stop - 30)
    table = compare(
        members,
        convert(X[TEST]),
        Y[TEST],
        X_select=convert(X[shifted]),
        y_select=Y[shifted],
        **FAST,
    )
    assert any("370 of the 400 selection samples equal" in note for note in table.notes)
    assert not any("selection samples equal" in note for note in comparison().notes)


def test_wrong_arguments_are_reported() -> None:
    members, data = networks(), (X[TEST], Y[TEST])
    with pytest.raises(ValueError, match="at least two members, found 1"):
        compare(members[:1], *data)
    with pytest.raises(ValueError, match="names must be different"):
        compare(members, *data, names=["a"] * 4)
    with pytest.raises(ValueError, match="X_select must be other samples"):
        compare(members, *data, X_select=X[TEST], y_select=Y[TEST])
    with pytest.raises(ValueError, match="X_select must be other samples"):
        compare(members, *data, X_select=X[TEST].copy(), y_select=Y[TEST])
    with pytest.raises(TypeError, match="is_run must be True or False"):
        compare(members, *data, is_run="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="X_select must be given with y_select"):
        compare(members, *data, y_select=Y[SELECT])
    with pytest.raises(ValueError, match="y and y_select must both be given"):
        compare(members, *data, X_select=X[SELECT])
    with pytest.raises(ValueError, match="n_resamples must be at least 1"):
        compare(members, *data, n_resamples=0)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        compare(members, *data, level=95)
    with pytest.raises(ValueError, match="soup_params must be among"):
        compare(members, *data, soup_params={"rule": "median"})
    with pytest.raises(ValueError, match="for PyTorch modules only"):
        compare(members, *data, output="logits")
    with pytest.raises(ValueError, match="y must have the targets of X"):
        compare(members, X[TEST])
    with pytest.raises(TypeError, match="all be classifiers, or all regressors"):
        compare([members[0], Ridge().fit(X[TRAIN], Y[TRAIN])], *data)
    with pytest.raises(TypeError, match="pass estimator=MODEL"):
        compare(["a.pt", "b.pt"], *data)
    with pytest.raises(ValueError, match="accuraccy"):
        compare(members, *data, scoring="accuraccy")
