"""Rounds are blended with weights from earlier rounds and truths of their time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.predictions.forecasts import (
    combine_rounds,
    linear_pool,
    quantile_mean,
    weighted_interval_score,
)

LEVELS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])


def rounds_of(seed: int = 0, n_rounds: int = 5, n_members: int = 6) -> Any:
    """Forecasts of four units a round, members absent at random, and outcomes."""
    rng = np.random.default_rng(seed)
    rounds = np.repeat(np.arange(n_rounds), 4)
    y = rng.gamma(3, 10, len(rounds))
    error = rng.normal(size=(n_members, len(y))) * np.arange(1, n_members + 1)[:, None]
    stack = (y + error)[..., None] + [-4, -2, 0, 2, 4]
    absent = rng.random((n_members, len(y))) < 0.3
    absent[0] = False
    return np.where(absent[..., None], np.nan, stack), rounds, y


def known_before(rounds: Any, y: Any) -> Any:
    return lambda now: np.where(rounds < now, y, np.nan)


@pytest.mark.parametrize("now", range(5))
def test_outcomes_and_forecasts_of_later_rounds_do_not_matter(now: int) -> None:
    stack, rounds, y = rounds_of()
    known = np.where(rounds < now, y, np.nan)
    first = combine_rounds(stack, rounds, known_before(rounds, y), levels=LEVELS)
    changed = np.where((rounds > now)[:, None], stack + 100, stack)
    later = combine_rounds(
        changed,
        rounds,
        lambda label: known if label == now else np.full(len(y), np.nan),
        levels=LEVELS,
    )
    np.testing.assert_array_equal(first.weights[now], later.weights[now])
    rows = rounds == now
    np.testing.assert_array_equal(first.quantiles[rows], later.quantiles[rows])


def test_the_truth_of_its_time_is_used_not_the_final_one() -> None:
    stack, rounds, y = rounds_of()
    revised = y * np.where(rounds % 2, 1.5, 1.0)
    at_first = combine_rounds(
        stack,
        rounds,
        lambda now: np.where(rounds < now, y if now < 4 else revised, np.nan),
        levels=LEVELS,
    )
    early, late = (
        combine_rounds(stack, rounds, known_before(rounds, truth), levels=LEVELS)
        for truth in (y, revised)
    )
    np.testing.assert_array_equal(at_first.weights[:4], early.weights[:4])
    np.testing.assert_array_equal(at_first.weights[4], late.weights[4])
    assert not np.allclose(early.weights[4], late.weights[4])


@pytest.mark.parametrize("future", [2, 4])
def test_an_outcome_that_cannot_be_known_is_refused(future: int) -> None:
    stack, rounds, y = rounds_of()
    with pytest.raises(ValueError, match=r"for round 2.* unit \d+ of round 2"):
        combine_rounds(
            stack,
            rounds,
            lambda now: np.where(rounds <= future if now == 2 else False, y, np.nan),
            levels=LEVELS,
        )


def test_without_weights_members_count_equally() -> None:
    stack, rounds, y = rounds_of()
    forecasts = combine_rounds(
        stack, rounds, known_before(rounds, y), levels=LEVELS, weights=None
    )
    expected = (
        quantile_mean(stack, levels=LEVELS) + linear_pool(stack, levels=LEVELS)
    ) / 2
    np.testing.assert_allclose(forecasts.quantiles, expected, rtol=1e-12)


@pytest.mark.parametrize("rule", ["quantile_mean", ["quantile_mean"]])
def test_the_first_round_has_equal_weights(rule: Any) -> None:
    stack, rounds, y = rounds_of()
    forecasts = combine_rounds(
        stack, rounds, known_before(rounds, y), levels=LEVELS, rule=rule
    )
    np.testing.assert_allclose(forecasts.weights[0], 1 / 6)
    rows = rounds == 0
    np.testing.assert_allclose(
        forecasts.quantiles[rows], quantile_mean(stack[:, rows], levels=LEVELS)
    )


def test_members_that_are_absent_from_a_round_have_no_weight() -> None:
    stack, rounds, y = rounds_of()
    stack[1, rounds == 3] = np.nan
    stack[2, rounds < 3] = np.nan
    weights = combine_rounds(
        stack, rounds, known_before(rounds, y), levels=LEVELS
    ).weights
    assert weights[3, 1] == 0
    assert weights[2, 2] == 0
    assert weights[3, 2] > 0
    np.testing.assert_allclose(weights.sum(1), 1)


def test_a_unit_without_members_is_named_by_its_index() -> None:
    stack, rounds, y = rounds_of()
    stack[:, 13] = np.nan
    with pytest.raises(ValueError, match="unit 13 has none"):
        combine_rounds(stack, rounds, known_before(rounds, y), levels=LEVELS)


def test_outcomes_alone_are_not_enough() -> None:
    stack, rounds, y = rounds_of()
    with pytest.raises(TypeError, match="truth must be a function"):
        combine_rounds(stack, rounds, y, levels=LEVELS)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "quantile_men"}, "did you mean 'quantile_mean'"),
        ({"rule": []}, "rule must be a name"),
        ({"rule_params": {"proportion": 0.1}}, "several without rule_params"),
        ({"weights": "greedy"}, "weights must be"),
        ({"weights_params": {"power": -1}}, "power"),
        ({"truth": lambda now: [1.0]}, "one value for each of 20 units"),
    ],
)
def test_bad_settings_are_refused(params: dict[str, Any], message: str) -> None:
    stack, rounds, y = rounds_of()
    arguments = {"truth": known_before(rounds, y), "levels": LEVELS, **params}
    with pytest.raises(ValueError, match=message):
        combine_rounds(stack, rounds, arguments.pop("truth"), **arguments)


def test_the_better_member_gets_more_weight_and_the_blend_improves() -> None:
    stack, rounds, y = rounds_of(n_rounds=20)
    truth = known_before(rounds, y)
    ours, equal = (
        combine_rounds(
            stack,
            rounds,
            truth,
            levels=LEVELS,
            weights=weights,
            weights_params={"max_weight": 1.0} if weights else None,
        )
        for weights in ("skill", None)
    )
    assert (np.diff(ours.weights[-1, [0, 2, 5]]) < 0).all()
    losses = [
        weighted_interval_score(y, blend.quantiles, LEVELS).mean()
        for blend in (ours, equal)
    ]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("weights", ["skill", None])
def test_an_unknown_parameter_of_the_weights_is_named(weights: str | None) -> None:
    stack, rounds, y = rounds_of(n_rounds=3)
    params = {"n_rounds" if weights else "power": 3}
    message = "among power, prior.*'n_rounds'" if weights else "among none.*'power'"
    with pytest.raises(ValueError, match=message):
        combine_rounds(
            stack,
            rounds,
            known_before(rounds, y),
            levels=LEVELS,
            weights=weights,
            weights_params=params,
        )


def test_crossing_quantiles_are_sorted_on_request() -> None:
    stack, rounds, y = rounds_of(n_rounds=3)
    truth = known_before(rounds, y)
    expected = combine_rounds(stack, rounds, truth, levels=LEVELS)
    crossed = np.asarray(stack)[..., ::-1]
    with pytest.raises(ValueError, match="pass crossing='sort'"):
        combine_rounds(crossed, rounds, truth, levels=LEVELS)
    blend = combine_rounds(crossed, rounds, truth, levels=LEVELS, crossing="sort")
    assert np.array_equal(blend.quantiles, expected.quantiles)
