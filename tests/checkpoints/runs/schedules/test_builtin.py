"""Schedules: sums, independent loops, and the averages that the weights stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles._typing import Float64
from ensembles.checkpoints import SCHEDULES, average, schedule_weights

# Several sets of parameters for each schedule; those in the unit of the positions as a
# share of the distance from the first to the last.
PARAMS: dict[str, list[dict[str, Any]]] = {
    "uniform": [{}, {"n": 1}],
    "lawa": [{}, {"k": 1}, {"interval": 0.3}],
    "ema": [
        {"half_life": 0.2},
        {"half_life": 3.0},
        {"decay": 0.2, "per": "checkpoint"},
        {"half_life": 2, "per": "checkpoint"},
    ],
    "power": [{"gamma": 0}, {"gamma": 6.94}, {"sigma_rel": 0.05}],
    "wsm": [{}, {"shape": "minus_sqrt"}, {"shape": "cosine"}],
}
CASES = [(name, params) for name, sets in PARAMS.items() for params in sets]
over_cases = pytest.mark.parametrize(("name", "params"), CASES, ids=str)
few = settings(max_examples=20, deadline=None)
gaps = st.lists(st.integers(1, 10**6), min_size=1, max_size=30)


def in_units(params: dict[str, Any], span: float) -> dict[str, Any]:
    """Parameters with half-lives and intervals in the unit of the positions."""
    scaled = {"interval"} if "per" in params else {"interval", "half_life"}
    return {k: v * span if k in scaled else v for k, v in params.items()}


def test_every_schedule_is_tested() -> None:
    assert PARAMS.keys() == SCHEDULES.keys()


@over_cases
@given(gaps=gaps)
@few
def test_weights_sum_to_one_and_are_not_negative(
    name: str, params: dict[str, Any], gaps: list[int]
) -> None:
    positions = np.cumsum(gaps)
    span = float(positions[-1] - positions[0]) or 1.0
    weights = SCHEDULES[name](positions, **in_units(params, span))
    assert weights.shape == positions.shape
    assert weights.dtype == np.float64
    assert (weights >= 0).all()
    assert math.fsum(weights) == pytest.approx(1, abs=1e-14)
    assert weights[-1] > 0


@over_cases
@given(gaps=gaps, unit=st.sampled_from([1e-3, 0.5, 4096, 524288 * 2048]))
@few
def test_the_unit_of_the_positions_does_not_matter(
    name: str, params: dict[str, Any], gaps: list[int], unit: float
) -> None:
    positions = np.cumsum(gaps).astype(np.float64)
    # A distance that equals the interval up to rounding would be on either side.
    span = float(positions[-1] - positions[0] + 0.37)
    steps = SCHEDULES[name](positions, **in_units(params, span))
    tokens = SCHEDULES[name](positions * unit, **in_units(params, span * unit))
    np.testing.assert_allclose(tokens, steps, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("decay", [0.5, 0.99, 0.9999])
@given(gaps=st.lists(st.integers(1, 50), min_size=1, max_size=12))
@few
def test_ema_equals_an_average_updated_at_each_step(
    decay: float, gaps: list[int]
) -> None:
    values = np.sin(np.arange(len(gaps)) * 3.0)
    moving = values[0]
    for value, gap in zip(values[1:], gaps[1:], strict=True):
        for _ in range(gap):  # the parameters stay at the checkpoint from the last on
            moving = decay * moving + (1 - decay) * value
    weights = schedule_weights(np.cumsum(gaps), "ema", decay=decay)
    assert weights @ values == pytest.approx(moving, abs=1e-12)


def test_ema_per_checkpoint_equals_the_update_of_torch() -> None:
    values, decay = [3.0, -1.0, 4.0, 1.0], 0.9
    moving = values[0]
    for value in values[1:]:
        moving = decay * moving + (1 - decay) * value
    weights = SCHEDULES["ema"]([1, 5, 6, 100], decay=decay, per="checkpoint")
    assert weights @ values == pytest.approx(moving, abs=1e-15)


def test_decay_and_half_life_are_the_same_average() -> None:
    steps = [100, 250, 900]
    by_decay = schedule_weights(steps, "ema", decay=0.5 ** (1 / 300))
    by_half_life = schedule_weights(steps, "ema", half_life=300)
    np.testing.assert_allclose(by_decay, by_half_life, rtol=1e-12)


def test_small_weights_of_a_slow_average_keep_their_digits() -> None:
    weights = schedule_weights(np.arange(1, 6), "ema", half_life=1e12)
    assert weights[-1] == pytest.approx(math.log(2) / 1e12, rel=1e-9, abs=0)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97])
@given(gaps=st.lists(st.integers(1, 50), min_size=1, max_size=12))
@few
def test_power_equals_an_average_updated_at_each_step(
    gamma: float, gaps: list[int]
) -> None:
    values = np.cos(np.arange(len(gaps)) * 2.0)
    step, moving = 0, 0.0
    for value, gap in zip(values, gaps, strict=True):
        for _ in range(gap):
            step += 1
            beta = (1 - 1 / step) ** (gamma + 1)  # equation 127 of Karras et al.
            moving = beta * moving + (1 - beta) * value
    weights = schedule_weights(np.cumsum(gaps), "power", gamma=gamma)
    assert weights @ values == pytest.approx(moving, abs=1e-12)


def test_a_checkpoint_at_step_zero_has_no_weight_in_a_power_average() -> None:
    assert schedule_weights([0, 1, 2], "power", gamma=0).tolist() == [0.0, 0.5, 0.5]


RATES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "minus_sqrt": lambda x: 1 - math.sqrt(x),
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
}


@pytest.mark.parametrize("shape", RATES)
@given(n_members=st.integers(1, 200), interval=st.integers(1, 10**6))
@few
def test_wsm_has_the_coefficients_of_megatron_at_equal_distances(
    shape: str, n_members: int, interval: int
) -> None:
    rates = [RATES[shape](i / n_members) for i in range(n_members)]
    expected = [1.0]
    if n_members > 1:
        inner = [rates[i] - rates[i + 1] for i in range(1, n_members - 1)]
        expected = [1 - sum(inner) - rates[-1], *inner, rates[-1]]
    positions = 7 * interval + interval * np.arange(n_members)
    weights = schedule_weights(positions, "wsm", shape=shape)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", RATES)
def test_a_wsm_merge_equals_a_run_with_decayed_updates(
    shape: str, rng: np.random.Generator
) -> None:
    steps = np.array([1000, 1010, 1500, 1700, 2000])
    updates = rng.normal(size=(4, 3))
    checkpoints = np.cumsum([rng.normal(size=3), *updates], axis=0)
    duration = (2000 - 1000) * 5 / 4
    decayed = checkpoints[0].copy()
    for step, update in zip(steps[1:], updates, strict=True):
        decayed += RATES[shape]((step - 1000) / duration) * update
    merge = schedule_weights(steps, "wsm", shape=shape) @ checkpoints
    np.testing.assert_allclose(merge, decayed, rtol=1e-13)


def test_linear_wsm_at_equal_distances_is_the_plain_mean() -> None:
    weights = schedule_weights(range(0, 5000, 500), "wsm")
    np.testing.assert_allclose(weights, np.full(10, 0.1), rtol=1e-14)


def test_a_hyphen_in_a_shape_is_accepted() -> None:
    assert schedule_weights([1, 2], "wsm", shape="minus-sqrt").tolist() == (
        schedule_weights([1, 2], "wsm", shape="minus_sqrt").tolist()
    )


def test_lawa_goes_back_from_the_last_by_the_interval() -> None:
    steps = [100, 1000, 1900, 2000, 3000, 3050, 4000]
    kept = schedule_weights(steps, "lawa", k=3, interval=1000) > 0
    assert kept.tolist() == [False, False, False, True, True, False, True]


@over_cases
def test_one_checkpoint_has_all_the_weight(name: str, params: dict[str, Any]) -> None:
    assert SCHEDULES[name]([500], **params).tolist() == [1.0]


def test_steps_may_be_decimals() -> None:
    steps = [Decimal("0.5"), Decimal("1.5")]
    assert schedule_weights(steps, "uniform").tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([2, 1], r"positions must increase: positions\[1\] is 1 after 2"),
        ([1, 1], r"positions must increase: positions\[1\] is 1 after 1"),
        ([1, math.nan], r"positions must be finite: positions\[1\] is nan"),
        ([], r"at least one number, found shape \(0,\)"),
        ([[1]], r"flat list of at least one number, found shape \(1, 1\)"),
    ],
    ids=str,
)
def test_positions_must_be_increasing_numbers(positions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule_weights(positions, "uniform")


@pytest.mark.parametrize("positions", ["abc", ["a", "b"], [[1], [1, 2]]])
def test_positions_of_the_wrong_type_are_an_error(positions: Any) -> None:
    with pytest.raises(TypeError, match="positions must be numbers, found"):
        schedule_weights(positions, "uniform")


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("uniform", {"n": 4}, "n must be from 1 to the number of checkpoints, 3, fo"),
        ("uniform", {"n": 0}, "n must be from 1 to .* found 0"),
        ("uniform", {"k": 2}, "schedule 'uniform' has no parameter 'k'"),
        ("lawa", {"k": 3, "interval": 2}, "k must be from 1 to .*, 2, found 3"),
        ("lawa", {"interval": -1}, "interval must not be negative, found -1"),
        ("ema", {}, "needs either decay or half_life, found decay=None and half_life"),
        ("ema", {"decay": 0.9, "half_life": 3}, "needs either decay or half_life"),
        ("ema", {"decay": 1}, "decay must be between 0 and 1, found 1"),
        ("ema", {"half_life": 0}, "half_life must be positive, found 0"),
        ("ema", {"decay": 0.9, "per": "epoch"}, "per must be 'step' or 'checkpoint'"),
        ("power", {}, "needs either gamma or sigma_rel, found gamma=None and sigma_"),
        ("power", {"gamma": -1}, "gamma must not be negative, found -1"),
        ("power", {"sigma_rel": 0.3}, "sigma_rel must be positive and at most"),
        ("wsm", {"shape": "exp"}, "shape must be one of linear, minus_sqrt, cosine"),
        ("swa", {}, "unknown schedule 'swa'"),
    ],
    ids=str,
)
def test_wrong_parameters_are_an_error(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        schedule_weights([1, 2, 3], name, **params)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("uniform", {"n": 1.5}),
        ("lawa", {"k": True}),
        ("lawa", {"interval": "x"}),
        ("ema", {"decay": "x"}),
        ("ema", {"half_life": "x"}),
        ("power", {"gamma": "x"}),
        ("power", {"sigma_rel": "x"}),
    ],
    ids=str,
)
def test_parameters_of_the_wrong_type_are_an_error(
    name: str, params: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"must be an integer|must be a number"):
        schedule_weights([1, 2, 3], name, **params)


@pytest.mark.parametrize("positions", [[-1, 2], [0]])
def test_positions_of_a_power_average_count_from_the_beginning(
    positions: list[float],
) -> None:
    with pytest.raises(ValueError, match="must count from the beginning of the train"):
        schedule_weights(positions, "power", gamma=1)


def test_the_average_has_the_weights_of_the_schedule(rng: np.random.Generator) -> None:
    members = [{"w": rng.normal(size=4)} for _ in range(3)]
    weights = schedule_weights([1, 2, 3], "ema", half_life=1)
    stack: Float64 = np.stack([member["w"] for member in members])
    merged = average(members, weights=weights)
    np.testing.assert_allclose(merged["w"], weights @ stack, rtol=1e-13)
