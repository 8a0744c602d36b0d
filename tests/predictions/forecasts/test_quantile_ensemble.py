"""The estimator on arrays of forecasts, and the scores that its weights maximize."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, TimeSeriesSplit
from sklearn.utils import Bunch

from ensembles.predictions.forecasts import (
    POOLS,
    QuantileEnsemble,
    crps_of_quantiles,
    pinball_loss,
)
from ensembles.predictions.forecasts.pool_scores import (
    PoolScore,
    make_objective,
    share_weights,
)
from ensembles.predictions.forecasts.quantiles import cumulative_probability

LEVELS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
SPREAD = np.array([-1.3, -0.7, 0.0, 0.7, 1.3])
RULES = ["linear_pool", "quantile_mean", "quantile_median", "quantile_trimmed_mean"]
each_rule = pytest.mark.parametrize("rule", RULES)

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


def data(seed: int = 0, n_units: int = 60, *, absent: bool = False) -> tuple[Any, Any]:
    """Three members with errors of different size, and outcomes."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n_units)
    errors = rng.normal(size=(n_units, 3)) * [0.3, 0.5, 2.0]
    X = (y[:, None] + errors)[..., None] + SPREAD * np.array([0.3, 1.0, 2.0])[:, None]
    if absent:
        is_absent = rng.random((n_units, 3)) < 0.3
        is_absent[:, 1] &= ~is_absent.all(1)
        X[is_absent] = np.nan
    return X, y


def score_of(rule: str, X: Any, y: Any, weights: Any = None) -> PoolScore:
    """Objective of learned weights."""
    return make_objective(forecast_score(rule, X, y, weights))


def forecast_score(rule: str, X: Any, y: Any, weights: Any = None) -> PoolScore:
    """Score that the estimator reports."""
    return PoolScore(
        POOLS[rule],
        {},
        LEVELS,
        stack=X.transpose(1, 0, 2),
        y=y,
        unit_weights=np.ones(len(y)) if weights is None else weights,
    )


def test_weights_of_absent_members_are_shared_equally() -> None:
    is_present = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    shares = share_weights(np.array([3.0, 1.0, 0.0]), is_present)
    assert shares.T.tolist() == [[0.75, 0.25, 0], [0, 0.625, 0.375], [0, 0, 1]]


@pytest.mark.parametrize("absent", [False, True])
def test_the_score_of_a_mean_of_quantiles_is_its_pinball_loss(absent: bool) -> None:
    X, y = data(absent=absent)
    weights = np.array([0.2, 0.5, 0.3])
    shares = share_weights(weights, ~np.isnan(X[..., 0].T))
    pooled = POOLS["quantile_mean"](X.transpose(1, 0, 2), shares, levels=LEVELS)
    expected = -2 * pinball_loss(y, pooled, LEVELS).mean()
    score: Any = score_of("quantile_mean", X, y)
    assert score(weights) == pytest.approx(expected, rel=1e-12)
    assert PoolScore.__call__(score, weights) == pytest.approx(expected, rel=1e-12)
    step = 1e-6 * np.array([1.0, -1.0, 0.0])
    slope = (score(weights + step) - score(weights - step)) / 2
    assert score.gradient(weights) @ step == pytest.approx(slope, rel=1e-6)
    counts = np.array([1, 0, 2])
    gains = score.gains(counts, np.arange(3))
    for member, gain in enumerate(gains):
        added = (counts + np.eye(3)[member]) / 4
        assert gain == pytest.approx(score(added), rel=1e-12)


def mixture_crps(quantiles: Any, shares: Any, outcome: float) -> float:
    """CRPS of a mixture, by quadrature that is exact between its knots."""
    nodes, node_weights = np.polynomial.legendre.leggauss(3)
    total = 0.0
    for low, high in pairwise(np.unique([*quantiles.ravel(), outcome])):
        x = low + (high - low) * (nodes + 1) / 2
        points = np.broadcast_to(x, (len(quantiles), 3))
        functions = cumulative_probability(points, quantiles, LEVELS)
        error = shares @ functions - (x >= outcome)
        total += (high - low) / 2 * float(node_weights @ error**2)
    return total


def test_the_score_of_a_linear_pool_is_the_crps_of_the_mixture() -> None:
    X, y = data(1, n_units=10)
    X = np.sort(np.round(X, 1))
    score: Any = score_of("linear_pool", X, y)
    weights = np.array([0.2, 0.5, 0.3])
    pairs = zip(X, y, strict=True)
    expected = -np.mean([mixture_crps(unit, weights, float(o)) for unit, o in pairs])
    assert score(weights) == pytest.approx(expected, rel=1e-12)
    for member in range(3):
        alone = -crps_of_quantiles(y, X[:, member], LEVELS).mean()
        assert score(np.eye(3)[member]) == pytest.approx(alone, rel=1e-12)
    step = 1e-6 * np.array([1.0, -1.0, 0.0])
    slope = (score(weights + step) - score(weights - step)) / 2
    assert score.gradient(weights) @ step == pytest.approx(slope, rel=1e-6)


def test_the_crps_of_a_unit_with_absent_members_shares_their_weight() -> None:
    X, y = data(2, n_units=2)
    X[0, 0] = X[1, 1:] = np.nan
    score: Any = score_of("linear_pool", X, y)
    expected = mixture_crps(X[0, 1:], np.array([0.6, 0.4]), y[0])
    expected += crps_of_quantiles(y[1:], X[1:, 0], LEVELS)[0]
    value = score(np.array([0.2, 0.5, 0.3]))
    assert value == pytest.approx(-expected / 2, rel=1e-12)


@each_rule
def test_a_subset_is_the_score_of_its_units(rule: str) -> None:
    X, y = data(3, absent=True)
    rows, unit_weights = np.array([3, 1, 20]), np.arange(60.0)
    part = score_of(rule, X, y, unit_weights).subset(rows)
    fresh = score_of(rule, X[rows], y[rows], unit_weights[rows])
    weights = np.array([0.2, 0.5, 0.3])
    assert part(weights) == pytest.approx(fresh(weights), rel=1e-12)


@pytest.mark.parametrize("rule", ["linear_pool", "quantile_mean"])
def test_convex_weights_are_best_on_a_grid(rule: str) -> None:
    X, y = data(4, absent=True)
    ensemble = QuantileEnsemble(LEVELS, rule=rule).fit(X, y)
    score = score_of(rule, X, y)
    grid = np.array([[a, b, 20 - a - b] for a in range(21) for b in range(21 - a)]) / 20
    best = max(score(weights) for weights in grid)
    assert score(ensemble.weights_) >= best - 1e-12
    assert ensemble.weights_.sum() == pytest.approx(1)


def test_the_gradient_is_followed_with_many_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = data(19, n_units=300, absent=True)
    exact = QuantileEnsemble(LEVELS, rule="quantile_mean").fit(X, y)
    assert len(exact.history_) == 1
    module = "ensembles.predictions.forecasts.pool_scores.LARGEST_PROGRAM"
    monkeypatch.setattr(module, 300)
    close = QuantileEnsemble(LEVELS, rule="quantile_mean").fit(X, y)
    assert len(close.history_) > 1
    assert exact.score(X, y) >= close.score(X, y) - 1e-12
    assert close.score(X, y) == pytest.approx(exact.score(X, y), rel=1e-3)


def test_weights_are_exact_in_any_unit_of_measurement() -> None:
    X, y = data(20)
    expected = QuantileEnsemble(LEVELS, rule="quantile_mean").fit(X, y).weights_
    for scale, shift in ((1e-9, 0.0), (1e12, 0.0), (1.0, 1e6)):
        ensemble = QuantileEnsemble(LEVELS, rule="quantile_mean")
        ensemble.fit(scale * X + shift, scale * y + shift)
        assert ensemble.weights_ == pytest.approx(expected, abs=1e-5)


def test_members_without_error_get_weights() -> None:
    _, y = data(21)
    X = np.repeat(y[:, None, None], 2, axis=1) + np.zeros(5)
    for rule in RULES[:2]:
        ensemble = QuantileEnsemble(LEVELS, rule=rule).fit(X, y)
        assert ensemble.weights_.sum() == pytest.approx(1)
        assert ensemble.score(X, y) == 0


def test_a_linear_program_that_fails_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = data(22)
    failed = Bunch(status=4, message="numerical difficulties")
    monkeypatch.setattr("scipy.optimize.linprog", lambda *_, **__: failed)
    with pytest.warns(UserWarning, match="failed: numerical difficulties"):
        ensemble = QuantileEnsemble(LEVELS, rule="quantile_mean").fit(X, y)
    assert ensemble.weights_.sum() == pytest.approx(1)


@each_rule
def test_scores_of_all_rules_are_the_loss_of_their_forecasts(rule: str) -> None:
    X, y = data(23, absent=True)
    ensemble = QuantileEnsemble(LEVELS, rule=rule, weights=[1, 2, 1]).fit(X, y)
    expected = -2 * pinball_loss(y, ensemble.predict(X), LEVELS).mean()
    assert ensemble.score(X, y) == pytest.approx(expected, rel=1e-12)
    assert ensemble.oof_score_ == pytest.approx(expected, rel=1e-12)
    for member in range(3):
        alone = QuantileEnsemble(LEVELS, rule=rule, weights=np.eye(3)[member])
        score = alone.fit(X, y).score(X, y)
        assert ensemble.scores_[member] == pytest.approx(score, rel=1e-12)
    assert ensemble.best_index_ == np.argmax(ensemble.scores_)


@each_rule
def test_learned_weights_prefer_members_with_small_errors(rule: str) -> None:
    X, y = data(5, n_units=100)
    ensemble = QuantileEnsemble(LEVELS, rule=rule, weights="greedy").fit(X, y)
    assert ensemble.weights_[2] < 0.1
    assert ensemble.best_index_ == np.argmax(ensemble.scores_)
    assert ensemble.history_
    in_sample = ensemble.score(X, y)
    assert ensemble.oof_score_ <= in_sample
    assert ensemble.oof_score_ == pytest.approx(in_sample, rel=0.3)


@each_rule
def test_predictions_are_those_of_the_pool(rule: str) -> None:
    X, y = data(6)
    ensemble = QuantileEnsemble(LEVELS, rule=rule, weights=[2, 1, 1]).fit(X, y)
    expected = POOLS[rule](X.transpose(1, 0, 2), [2, 1, 1], levels=LEVELS)
    assert ensemble.predict(X) == pytest.approx(expected, abs=1e-12)
    assert ensemble.weights_.tolist() == [0.5, 0.25, 0.25]
    assert ensemble.oof_score_ == ensemble.score(X, y)
    assert ensemble.history_ == ()


def test_columns_side_by_side_are_the_same_forecasts() -> None:
    X, y = data(7, absent=True)
    flat = X.reshape(len(X), -1)
    ensemble = QuantileEnsemble(LEVELS).fit(X, y)
    again = QuantileEnsemble(LEVELS).fit(flat, y)
    assert np.array_equal(ensemble.predict(X), again.predict(flat))
    with pytest.raises(ValueError, match=r"15 features, but .* is expecting 3"):
        ensemble.predict(flat)


def test_a_single_level_gives_one_dimension() -> None:
    X, y = data(8)
    medians = X[..., 2]
    assert QuantileEnsemble(0.5).fit(medians, y).predict(medians).shape == (60,)
    assert QuantileEnsemble([0.5]).fit(medians, y).predict(medians).shape == (60, 1)


def test_predictions_have_the_dtype_of_the_forecasts() -> None:
    X, y = data(9)
    ensemble = QuantileEnsemble(LEVELS).fit(X, y)
    assert ensemble.predict(X.astype(np.float32)).dtype == np.float32
    assert ensemble.predict(X).dtype == np.float64


def test_a_weight_is_a_repetition_of_the_unit() -> None:
    X, y = data(10, absent=True)
    repeats = np.random.default_rng(0).integers(0, 3, len(y))
    weighted = QuantileEnsemble(LEVELS).fit(X, y, sample_weight=repeats)
    repeated = QuantileEnsemble(LEVELS).fit(
        np.repeat(X, repeats, axis=0), np.repeat(y, repeats)
    )
    assert weighted.weights_ == pytest.approx(repeated.weights_, abs=1e-6)
    assert weighted.scores_ == pytest.approx(repeated.scores_, rel=1e-12)
    score = weighted.score(X, y, sample_weight=repeats)
    assert score == pytest.approx(
        forecast_score("linear_pool", X, y, repeats)(weighted.weights_)
    )


def test_folds_without_weight_are_left_out() -> None:
    X, y = data(11)
    weight = np.r_[np.zeros(12), np.ones(48)]
    ensemble = QuantileEnsemble(LEVELS).fit(X, y, sample_weight=weight)
    others = QuantileEnsemble(LEVELS, cv=4).fit(X[12:], y[12:])
    assert ensemble.oof_score_ == pytest.approx(others.oof_score_)


def test_folds_respect_groups_and_time() -> None:
    X, y = data(12, n_units=50)
    days = np.arange(50) // 7  # folds of different size
    for cv, groups in ((GroupKFold(5), days), (TimeSeriesSplit(5), None)):
        ensemble = QuantileEnsemble(LEVELS, cv=cv).fit(X, y, groups=groups)
        splits = list(cv.split(X, y, groups))
        parts = [
            QuantileEnsemble(LEVELS, cv=2)
            .fit(X[train], y[train])
            .score(X[test], y[test])
            for train, test in splits
        ]
        sizes = [len(test) for _, test in splits]
        expected = np.average(parts, weights=sizes)
        assert ensemble.oof_score_ == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="groups"):
        QuantileEnsemble(LEVELS, cv=GroupKFold(5)).fit(X, y)


def test_the_best_member_is_chosen_on_the_other_folds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = data(24)
    X[:, 0] = X[:, 1] = y[:, None] + SPREAD
    X[:30, 0] += 5
    X[30:, 1] += 7
    X[:, 2] += 20
    seen: list[Any] = []
    module = "ensembles.predictions.forecasts.quantile_ensemble.warn_if_no_gain"
    monkeypatch.setattr(module, lambda *arguments: seen.append(arguments))
    QuantileEnsemble(LEVELS, cv=2).fit(X, y)
    ((_, _, best_score, best_member),) = seen
    bad = [
        pinball_loss(y[:30], X[:30, 0], LEVELS),
        pinball_loss(y[30:], X[30:, 1], LEVELS),
    ]
    assert best_score == pytest.approx(-2 * np.mean(bad), rel=1e-12)
    assert best_member == "0"


@pytest.mark.filterwarnings("default:selection .* did not beat the best member")
def test_a_warning_says_that_weights_did_not_help() -> None:
    X, y = data(13)
    X[:, 1] = X[:, 0]
    X[:, 2] += 50
    with pytest.warns(UserWarning, match="did not beat the best member"):
        QuantileEnsemble(LEVELS, weights="top_k").fit(X, y)


def test_an_ensemble_is_cloned_searched_and_pickled() -> None:
    X, y = data(14)
    grid = {"rule": RULES[:2], "weights": [None, "convex"]}
    search = GridSearchCV(QuantileEnsemble(LEVELS), grid, cv=3).fit(X, y)
    best = search.best_estimator_
    assert search.best_params_["weights"] == "convex"
    assert np.array_equal(pickle.loads(pickle.dumps(best)).predict(X), best.predict(X))
    copy = clone(QuantileEnsemble(LEVELS, rule_params={"interpolation": "normal"}))
    copy.set_params(rule_params__interpolation="linear")
    assert copy.rule_params == {"interpolation": "linear"}


def test_crossing_quantiles_are_sorted_on_request() -> None:
    X, y = data(15)
    crossed = X[..., [1, 0, 2, 3, 4]]
    with pytest.raises(
        ValueError, match=r"quantiles must not cross: quantiles\[0, 0\]"
    ):
        QuantileEnsemble(LEVELS).fit(crossed, y)
    ensemble = QuantileEnsemble(LEVELS, crossing="sort").fit(crossed, y)
    expected = QuantileEnsemble(LEVELS).fit(X, y).predict(X)
    assert np.array_equal(ensemble.predict(crossed), expected)


def test_an_entry_of_the_table_is_a_rule() -> None:
    X, y = data(16)
    by_entry = QuantileEnsemble(LEVELS, rule=POOLS["quantile_mean"]).fit(X, y)
    by_name = QuantileEnsemble(LEVELS, rule="quantile_mean").fit(X, y)
    assert np.array_equal(by_entry.predict(X), by_name.predict(X))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"rule": "quantile_mode"}, "unknown rule 'quantile_mode'; did you mean"),
        ({"weights": "caruana"}, "did you mean 'greedy'"),
        ({"weights": [1, 2]}, "one number for each member: found 2 for 3 members"),
        ({"weights": [1, 2, -1]}, "must not be negative"),
        ({"rule_params": {"p": 1}}, "rule 'linear_pool' has no parameter 'p'"),
        ({"weights_params": {"n_rounds": 1}}, "no parameter 'n_rounds'"),
        ({"crossing": "ignore"}, "crossing must be one of"),
        ({"levels": LEVELS[:2]}, r"with 2 levels: found \(60, 3, 5\)"),
    ],
)
def test_parameters_that_are_not_valid_are_errors(
    params: dict[str, Any], match: str
) -> None:
    X, y = data(17)
    with pytest.raises(ValueError, match=match):
        QuantileEnsemble(**({"levels": LEVELS} | params)).fit(X, y)


def test_forecasts_that_cannot_be_used_are_errors() -> None:
    X, y = data(18)
    ensemble = QuantileEnsemble(LEVELS).fit(X, y)
    with pytest.raises(ValueError, match=r"levels: found \(60, 14\)"):
        QuantileEnsemble(LEVELS).fit(X.reshape(60, -1)[:, :14], y)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        ensemble.predict(np.where(X < 0, np.inf, X))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        QuantileEnsemble(LEVELS).fit(X, np.where(y < 0, np.nan, y))
    X[4] = np.nan
    with pytest.raises(ValueError, match=r"unit 4 has none \(1 of 60 units\)"):
        ensemble.predict(X)
