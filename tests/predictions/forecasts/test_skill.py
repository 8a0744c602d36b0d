"""Weights by skill against loops, and their limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ensembles.predictions.forecasts import skill_weights

PARAMS: list[dict[str, Any]] = [
    {},
    {"power": 2, "prior": 0, "half_life": None, "max_weight": 1.0},
    {"power": 20, "half_life": 1.5, "max_weight": 0.4},
]


def losses_of(seed: int = 0, n_rounds: int = 5, n_members: int = 6) -> Any:
    """Losses of four units a round; members are absent at random."""
    rng = np.random.default_rng(seed)
    rounds = np.repeat(np.arange(n_rounds), 4)
    losses = rng.gamma(
        2, np.arange(1, n_members + 1)[:, None], (n_members, len(rounds))
    )
    absent = rng.random(losses.shape) < 0.3
    absent[0] = False
    return np.where(absent, np.nan, losses), rounds


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
    limit, limited = min(1.0, max(max_weight, 2 / n_members)), np.zeros(n_members, bool)
    while (weights > limit + 1e-12).any():
        limited |= weights > limit + 1e-12
        rest = weights[~limited].sum()
        weights[~limited] *= (1 - limited.sum() * limit) / rest
        weights[limited] = limit
    return weights


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("seed", range(4))
def test_weights_agree_with_their_definition(seed: int, params: dict[str, Any]) -> None:
    losses, rounds = losses_of(seed)
    for now in range(1, 6):
        weights = skill_weights(losses, rounds, now=now, **params)
        expected = by_loops(losses, rounds, now, **params)
        np.testing.assert_allclose(weights, expected, rtol=1e-9)


def test_more_prior_rounds_draw_the_weights_to_equal_ones() -> None:
    losses, rounds = losses_of()
    spreads = [
        np.ptp(skill_weights(losses, rounds, now=5, prior=prior, max_weight=1.0))
        for prior in (0, 4, 40, 1e9)
    ]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 1e-6


def test_dates_and_their_numbers_give_the_same_weights() -> None:
    losses, rounds = losses_of()
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
    params["prior"] = 1
    before, after = (
        skill_weights(losses, [1, 2, 3], now=now, **params) for now in (4, 33)
    )
    assert np.ptp(after) < np.ptp(before) / 10


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


@pytest.mark.parametrize(
    ("n_members", "largest"), [(1, 1), (2, 1), (3, 2 / 3), (8, 0.25)]
)
def test_the_largest_weight_is_at_least_twice_the_equal_one(
    n_members: int, largest: float
) -> None:
    losses = np.where(np.arange(n_members) == 1, 0.01, 1.0)[:, None]
    weights = skill_weights(losses, [1], now=2, prior=0, max_weight=0.25)
    np.testing.assert_allclose(weights.max(), largest, atol=1e-9)


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
