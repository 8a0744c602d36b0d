"""Weights from earlier rounds: against loops, and against truths of the future."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ensembles.predictions.forecasts import (
    combine_rounds,
    linear_pool,
    quantile_mean,
    skill_weights,
    weighted_interval_score,
)

LEVELS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
PARAMS: list[dict[str, Any]] = [
    {},
    {"power": 2, "prior": 0, "half_life": None, "max_weight": 1.0},
    {"power": 20, "half_life": 1.5, "max_weight": 0.4},
]


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


def by_loops(
    losses: Any,
    rounds: Any,
    now: float,
    *,
    power: float = 8,
    prior: float = 4,
    half_life: float | None = 12,
    max_weight: float = 0.25,
) -> Any:
    """Weights by the definition, for whole numbers as rounds, one apart."""
    n_members = len(losses)
    skills = []
    for losses_of_member in losses:
        total, evidence = 0.0, float(prior)
        for label in sorted(set(rounds[rounds < now].tolist())):
            own = expected = n_own = 0.0
            for unit in np.flatnonzero(rounds == label):
                if not np.isnan(losses_of_member[unit]):
                    own += losses_of_member[unit]
                    expected += np.nanmedian(losses[:, unit])
                    n_own += 1
            n_most = max((~np.isnan(losses[:, rounds == label])).sum(1))
            if n_own:
                counted = n_own / n_most
                if half_life is not None:
                    counted *= 0.5 ** ((now - label) / half_life)
                total += counted * math.log(own / expected)
                evidence += counted
        skills.append(total / evidence if evidence else 0.0)
    weights = np.exp(-power * np.array(skills))
    weights /= weights.sum()
    limit, limited = max(max_weight, 1 / n_members), np.zeros(n_members, bool)
    while (weights > limit + 1e-12).any():
        limited |= weights > limit + 1e-12
        rest = weights[~limited].sum()
        weights[~limited] *= (1 - limited.sum() * limit) / rest
        weights[limited] = limit
    return weights


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("seed", range(4))
def test_weights_agree_with_their_definition(seed: int, params: dict[str, Any]) -> None:
    stack, rounds, y = rounds_of(seed)
    losses = weighted_interval_score(y, stack, LEVELS)
    for now in range(1, 6):
        weights = skill_weights(losses, rounds, now=now, **params)
        expected = by_loops(losses, rounds, now, **params)
        np.testing.assert_allclose(weights, expected, rtol=1e-9)


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


def test_more_prior_rounds_draw_the_weights_to_equal_ones() -> None:
    stack, rounds, y = rounds_of()
    losses = weighted_interval_score(y, stack, LEVELS)
    spreads = [
        np.ptp(skill_weights(losses, rounds, now=5, prior=prior, max_weight=1.0))
        for prior in (0, 4, 40, 1e9)
    ]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 1e-6


def test_dates_and_their_numbers_give_the_same_weights() -> None:
    stack, rounds, y = rounds_of()
    losses = weighted_interval_score(y, stack, LEVELS)
    dates = np.datetime64("2024-10-05") + 7 * rounds
    expected = skill_weights(losses, rounds, now=5)
    now = np.datetime64("2024-11-09")
    np.testing.assert_array_equal(skill_weights(losses, dates, now=now), expected)
    as_objects = skill_weights(losses, dates.tolist(), now=now.item())
    np.testing.assert_array_equal(as_objects, expected)


def test_a_pause_ages_the_rounds_before_it() -> None:
    losses = np.array([[1.0, 1, 2], [2, 2, 1], [1.5, 1.5, 1.5]])
    params: dict[str, Any] = {"half_life": 2, "prior": 0, "max_weight": 1.0}
    steady = skill_weights(losses, [1, 2, 3], now=4, **params)
    paused = skill_weights(losses, [1, 2, 33], now=34, **params)
    assert paused[1] > steady[1]


def test_one_zero_loss_is_not_taken_for_infinite_skill() -> None:
    losses = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    weights = skill_weights(losses, [1, 2], now=3, power=1, prior=0, max_weight=1.0)
    assert 1 > weights[0] > weights[1] > 0
    np.testing.assert_allclose(skill_weights(losses * 0, [1, 2], now=3), 1 / 3)


def test_units_of_a_single_member_do_not_change_its_skill() -> None:
    losses = np.array([[1.0, 5.0], [1.0, np.nan], [1.0, np.nan]])
    np.testing.assert_allclose(
        skill_weights(losses, [1, 2], now=3, max_weight=1), 1 / 3
    )


@pytest.mark.parametrize("n_members", [1, 2, 3])
def test_few_members_may_have_their_equal_weight(n_members: int) -> None:
    losses = np.arange(1.0, n_members + 1)[:, None]
    np.testing.assert_allclose(skill_weights(losses, [1], now=2), 1 / n_members)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"power": -1}, "power must be a number of at least 0, found -1"),
        ({"power": np.nan}, "power must be a number of at least 0"),
        ({"prior": np.inf}, "prior must be a number of at least 0"),
        ({"half_life": 0}, "half_life must be above 0, found 0"),
        ({"max_weight": 1.5}, "max_weight must be above 0 and at most 1, found 1.5"),
        ({"is_present": [True]}, "one value for each of 2 members"),
        ({"is_present": [False, False]}, "at least one of them must be True"),
        ({"losses": [1.0]}, r"shape \(n_members, n_units\), found \(1,\)"),
        ({"losses": [[1.0], [-2.0]]}, r"losses\[1, 0\] is -2"),
        ({"rounds": [1, 2]}, "one value for each of 1 units"),
        ({"rounds": [np.nan]}, "unit 0"),
    ],
)
def test_bad_values_are_refused(params: dict[str, Any], message: str) -> None:
    arguments = {"losses": [[1.0], [2.0]], "rounds": [1], "now": 2, **params}
    with pytest.raises(ValueError, match=message):
        skill_weights(arguments.pop("losses"), arguments.pop("rounds"), **arguments)


@pytest.mark.parametrize("rounds", [["a"], [True]])
def test_rounds_without_an_order_in_time_are_refused(rounds: Any) -> None:
    with pytest.raises(TypeError, match="rounds must be numbers or dates"):
        skill_weights([[1.0]], rounds, now=2)


def test_a_number_is_not_compared_with_dates() -> None:
    with pytest.raises(TypeError, match="now must be of the kind of rounds"):
        skill_weights([[1.0]], np.array(["2024-10-05"], "datetime64[D]"), now=2)


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
