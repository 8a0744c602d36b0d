"""What holds of every way to choose weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from ensembles._typing import Float64
from ensembles.selection import SELECTIONS, Selection
from ensembles.selection.choose import run_selection
from ensembles.selection.score import CachedScore, ParameterRange, Trial
from tests.selection.scores import Distance, DistanceWithGradient, cases, distances


def names_of(has_property: Callable[[Selection], bool]) -> pytest.MarkDecorator:
    """Parametrize a test over the selections with a property."""
    names = sorted(name for name, s in SELECTIONS.items() if has_property(s))
    return pytest.mark.parametrize("name", names)


names = names_of(lambda selection: True)


@names
@given(case=cases)
@settings(max_examples=25, deadline=None)
def test_weights_are_on_the_simplex_and_no_worse_than_the_best_member(
    name: str, case: tuple[int, int]
) -> None:
    n_members, seed = case
    score = distances(n_members, seed)
    weights = SELECTIONS[name](n_members, score)
    assert weights.shape == (n_members,)
    assert weights.dtype == np.float64
    assert (weights >= 0).all()
    if not SELECTIONS[name].needs_base:
        assert math.fsum(weights) == pytest.approx(1, abs=1e-15)
        assert score(weights) >= CachedScore(score).member_scores(n_members).max()


@names_of(lambda selection: selection.symmetric)
@given(case=cases)
@settings(max_examples=15, deadline=None)
def test_the_order_of_members_does_not_matter(name: str, case: tuple[int, int]) -> None:
    n_members, seed = case
    score = distances(n_members, seed)
    order = np.random.default_rng(seed).permutation(n_members)
    moved = DistanceWithGradient(score.stack[order], score.target)
    found = SELECTIONS[name](n_members, moved)
    expected = SELECTIONS[name](n_members, score)
    # Many weights may reach the optimum.
    assert moved(found) == pytest.approx(score(expected), abs=1e-9)
    if not SELECTIONS[name].uses_gradient:
        np.testing.assert_array_equal(found, expected[order])


@names_of(lambda selection: not selection.needs_base)
def test_one_member_gets_all_the_weight(name: str) -> None:
    assert SELECTIONS[name](1, distances(1, 0)).tolist() == [1.0]


@names
def test_every_step_is_recorded_with_its_score(name: str) -> None:
    score = distances(4, 1)
    history: list[Trial] = []
    weights = SELECTIONS[name](4, score, record=history.append)
    assert history
    assert [trial.score for trial in history] == [
        pytest.approx(score(trial.weights), abs=1e-12) for trial in history
    ]
    recorded = [trial.score for trial in history]
    single = CachedScore(score).member_scores(4)
    assert score(weights) >= max(recorded) - 1e-12
    scored = np.array([*recorded, *single])
    assert np.abs(scored - score(weights)).min() <= 1e-12
    assert len({id(trial.weights) for trial in history}) == len(history)


@names_of(lambda selection: selection.adds_members)
def test_the_first_of_many_equal_members_is_preferred(name: str) -> None:
    # Numpy's default sort keeps the order of equals only up to sixteen of them.
    better = np.repeat([0.0, 1.0], 20)
    weights = SELECTIONS[name](40, lambda w: float(w.max() * (w @ better)))
    assert weights.tolist() == np.eye(40)[20].tolist()


@names
def test_identical_members_score_as_one_member(name: str) -> None:
    score = Distance(np.ones((3, 2)), np.zeros(2))
    weights = SELECTIONS[name](3, score)
    # The base is at the target.
    expected = 0 if SELECTIONS[name].needs_base else -2
    assert score(weights) == pytest.approx(expected)


@names
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_scores_that_are_not_finite_are_an_error(name: str, value: float) -> None:
    with pytest.raises(
        ValueError, match=r"must be finite: .* at (weights \{0: 1.0\}|the base)"
    ):
        SELECTIONS[name](2, lambda weights: value)


@names
def test_no_members_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="at least one member, found 0"):
        SELECTIONS[name](0, distances(1, 0))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        (
            "greedy",
            {"n_rounds": "abc"},
            "^n_rounds must be an integer, found 'abc'",
        ),
        ("greedy", {"n_rounds": True}, "^n_rounds must be an integer, found True"),
        ("greedy", {"patience": "x"}, "^patience must be an integer, found 'x'"),
        ("greedy", {"fraction": True}, "^fraction must be a number, found True"),
        ("greedy", {"n_init": 1.5}, "^n_init must be an integer, found 1.5"),
        ("greedy", {"n_bags": None}, "^n_bags must be an integer, found None"),
        ("greedy", {"fraction": "x"}, "^fraction must be a number, found 'x'"),
        ("top_k", {"k": "2"}, "^k must be an integer, found '2'"),
        ("optuna", {"n_trials": 2.0}, "^n_trials must be an integer, found 2.0"),
        ("optuna", {"random_state": "a"}, "^random_state must be an integer, foun"),
        ("optuna", {"sampler": 3}, "^sampler must be a name or an Optuna sampler, fou"),
    ],
    ids=str,
)
def test_a_parameter_of_the_wrong_type_is_an_error(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        SELECTIONS[name](2, distances(2, 0), **params)


@pytest.mark.parametrize("alphas", [0.3, "abc", [0.5, 2], [], [[0.5]], None], ids=repr)
def test_an_error_about_alphas_shows_a_valid_value(alphas: Any) -> None:
    with pytest.raises(ValueError, match=r"such as alphas=\[0\.3\]; found ") as caught:
        SELECTIONS["wise_ft"](2, distances(2, 0), alphas=alphas)
    assert str(caught.value).endswith(repr(alphas))


def test_numpy_numbers_are_accepted() -> None:
    params: dict[str, Any] = {"n_rounds": np.int64(3), "fraction": np.float32(1)}
    assert SELECTIONS["greedy"](2, distances(2, 0), **params).sum() == 1


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_shares_the_weight_among_the_k_best(k: int) -> None:
    alone = np.array([0.1, 0.9, 0.5, 0.7])
    weights = SELECTIONS["top_k"](4, lambda w: float(w @ alone), k=k)
    best = np.argsort(-alone)[:k]
    assert weights[best].tolist() == [1 / k] * k
    assert math.fsum(weights) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("greedy", {"n_bags": 2, "random_state": "x"}),
        ("optuna", {"sampler": "tpee"}),
        ("top_k", {"k": 9}),
        ("wise_ft", {"alphas": [2]}),
    ],
)
def test_wrong_parameters_are_told_before_the_first_score(
    name: str, wrong: dict[str, Any]
) -> None:
    def score(weights: Any) -> float:
        raise AssertionError("a score was asked for")

    with pytest.raises((TypeError, ValueError), match="must be"):
        SELECTIONS[name](3, score, **wrong)


def test_bags_are_drawn_by_any_source_of_chance() -> None:
    score = distances(6, 0)
    state: Any
    for state in (3, np.random.default_rng(3), np.random.RandomState(3), np.int64(3)):
        assert SELECTIONS["greedy"](6, score, n_bags=2, random_state=state).shape == (
            6,
        )
    for state in ("x", 1.5, True, [1]):
        with pytest.raises(TypeError, match="random_state must be an integer"):
            SELECTIONS["greedy"](6, score, n_bags=2, random_state=state)
    with pytest.raises(ValueError, match="random_state must not be negative"):
        SELECTIONS["greedy"](6, score, n_bags=2, random_state=-3)


def test_optuna_finds_better_weights_than_those_it_begins_with() -> None:
    pytest.importorskip("optuna")
    target = np.array([0.7, 0.2, 0.1])

    def score(weights: Any) -> float:
        return -float(((weights - target) ** 2).sum())

    found = SELECTIONS["optuna"](3, score, n_trials=40)
    begun = [np.full(3, 1 / 3), *np.eye(3)]
    assert score(found) > max(score(weights) for weights in begun) + 0.01


class Ranged:
    """Score that is best at equal weights and 0.25, an integer parameter of 3."""

    ranges = {  # noqa: RUF012  # never changed
        "density": ParameterRange(0.0, 1.0, 0.5),
        "k": ParameterRange(1, 4, 2, is_integer=True),
    }

    def __init__(self) -> None:
        self.tried: list[dict[str, float]] = []

    def __call__(self, weights: Float64) -> float:
        return -10.0

    def score_params(self, weights: Float64, params: Mapping[str, float]) -> float:
        self.tried.append(dict(params))
        spread = float(np.ptp(weights))
        return -spread - abs(params["density"] - 0.25) - abs(params["k"] - 3)


@pytest.mark.parametrize("equal_weights", [False, True])
def test_optuna_samples_the_ranges_of_a_score(equal_weights: bool) -> None:
    pytest.importorskip("optuna")
    score = Ranged()
    params: dict[str, Any] = {"n_trials": 30, "equal_weights": equal_weights}
    result = run_selection(SELECTIONS["optuna"], 2, score, **params)
    assert score.tried[0] == {"density": 0.5, "k": 2}
    assert all(type(tried["k"]) is int for tried in score.tried)
    assert result.score == max(trial.score for trial in result.history)
    assert result.score is not None
    assert result.score > -0.4
    assert result.params in score.tried
    assert result.params == max(result.history, key=lambda t: t.score).params
    if equal_weights:
        assert {tuple(trial.weights) for trial in result.history} == {(0.5, 0.5)}
    weights = SELECTIONS["optuna"](2, Ranged(), **params)
    assert weights.tolist() == result.weights.tolist()


def test_a_single_member_that_beats_all_trials_has_no_parameters() -> None:
    pytest.importorskip("optuna")

    class Worse(Ranged):
        def score_params(self, weights: Float64, params: Mapping[str, float]) -> float:
            return -20.0

    result = run_selection(SELECTIONS["optuna"], 2, Worse(), n_trials=2)
    assert (result.weights.tolist(), result.params) == ([1, 0], None)


def test_equal_weights_need_a_range() -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match="equal_weights=True needs a score with rang"):
        SELECTIONS["optuna"](2, lambda weights: 0.0, equal_weights=True)
