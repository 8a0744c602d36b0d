"""Pools of quantile forecasts against rules, loops and mixtures of normal densities."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from ensembles.predictions.forecasts import (
    POOLS,
    linear_pool,
    quantile_mean,
    quantile_median,
    quantile_trimmed_mean,
)
from ensembles.predictions.forecasts.quantiles import cumulative_probability
from ensembles.rules import RULES

LEVELS = np.array([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975])
EACH = [*POOLS, "normal"]
each = pytest.mark.parametrize("name", EACH)


def pool(name: str, *arguments: Any, **params: Any) -> Any:
    """A rule by its name; "normal" is the linear pool with normal tails."""
    if name == "normal":
        return linear_pool(*arguments, interpolation="normal", **params)
    return POOLS[name](*arguments, **params)


def forecasts(seed: int, n_members: int = 5, n_units: int = 6) -> Any:
    """Quantiles with ties within and between members."""
    rng = np.random.default_rng(seed)
    shape = (n_members, n_units, len(LEVELS))
    stack = np.sort(rng.normal(size=shape) * rng.exponential(2, (n_members, 1, 1)))
    stack[rng.random(stack.shape) < 0.3] = 0.5
    return np.sort(np.round(stack, 1))


def with_absent(stack: Any, seed: int = 0) -> Any:
    absent = np.random.default_rng(seed).random(stack.shape[:2]) < 0.4
    absent[0] = False
    return np.where(absent[..., None], np.nan, stack)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 1.0, 3.0]])
@pytest.mark.parametrize(
    ("of_quantiles", "rule"),
    [
        (quantile_mean, RULES["mean"]),
        (quantile_median, RULES["median"]),
        (quantile_trimmed_mean, RULES["trimmed_mean"]),
    ],
)
def test_a_pool_of_quantiles_is_the_rule_of_the_members_that_are_present(
    of_quantiles: Any, rule: Callable[..., Any], weights: Any
) -> None:
    stack = with_absent(forecasts(1))
    pooled = of_quantiles(stack, weights, levels=LEVELS)
    for unit in range(stack.shape[1]):
        present = ~np.isnan(stack[:, unit, 0])
        some = None if weights is None else np.array(weights)[present]
        expected = rule(stack[present, unit], some)
        assert pooled[unit] == pytest.approx(expected, abs=1e-14)


def smallest_reaching(level: float, members: Any, weights: Any) -> float:
    """Smallest value at which a mixture reaches a level, by bisection of floats."""

    def reaches(x: float) -> bool:
        total = 0.0
        for member, weight in zip(members, weights, strict=True):
            k = int((member <= x).sum())
            value = 0.0 if k == 0 else 1.0
            if 0 < k < len(member):
                low, high = member[k - 1], member[k]
                step = LEVELS[k] - LEVELS[k - 1]
                value = LEVELS[k - 1] + step * (x - low) / (high - low)
            total += weight * value
        return bool(total >= level - 1e-12)

    low, high = members.min() - 1, members.max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return float(high)


@pytest.mark.parametrize("seed", range(4))
def test_the_linear_pool_is_where_the_mixture_reaches_the_levels(seed: int) -> None:
    stack = with_absent(forecasts(seed), seed)
    weights = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    pooled = linear_pool(stack, weights, levels=LEVELS)
    for unit in range(stack.shape[1]):
        present = ~np.isnan(stack[:, unit, 0])
        shares = weights[present] / weights[present].sum()
        for column, level in enumerate(LEVELS):
            expected = smallest_reaching(level, stack[present, unit], shares)
            assert pooled[unit, column] == pytest.approx(expected, abs=1e-9)


def test_the_compiled_loop_computes_the_same_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = np.array([1.0, 2.0, 0.5, 0.0, 3.0])
    cases = [with_absent(forecasts(seed, n_units=60), seed) for seed in range(4)]
    cases.append(np.random.default_rng(0).normal(size=(5, 60, 7)))
    for stack in cases:
        monkeypatch.setattr("ensembles.kernels.jit.WORTHWHILE", 1 << 60)
        expected = linear_pool(stack, weights, levels=LEVELS, crossing="sort")
        monkeypatch.setattr("ensembles.kernels.jit.WORTHWHILE", -1)
        looped = linear_pool(stack, weights, levels=LEVELS, crossing="sort")
        assert np.array_equal(looped, expected)


def test_a_linear_pool_worked_out_by_hand() -> None:
    # Two uniform densities with half of their mass on the ends. At x = 1.5 the first
    # function is 1 and the second 0.25 + 1.5 / 6 = 0.5, with the mean 0.75.
    stack = np.array([[[0.0, 1.0]], [[0.0, 3.0]]])
    pooled = linear_pool(stack, levels=[0.25, 0.75])
    assert pooled[0] == pytest.approx([0.0, 1.5], abs=1e-14)


def test_a_linear_pool_of_points_is_the_weighted_quantile_of_hub_ensembles() -> None:
    points = np.array([1, 4.2, 9, 14])[:, None, None]
    for level, expected in ((0.25, 1), (0.5, 4.2), (0.75, 14)):
        assert linear_pool(points, [4, 2, 1, 3], levels=[level]).item() == expected


def test_rounding_does_not_make_equal_quantiles_cross() -> None:
    """Forecast hubs refuse submissions with quantiles that decrease."""
    rng = np.random.default_rng(0)
    levels = np.arange(1, 100) / 100
    stack = np.sort(np.round(rng.exponential(size=(7, 50, 99)), 1))
    for name in EACH:
        pooled = pool(name, stack, rng.random(7), levels=levels)
        assert (np.diff(pooled) >= 0).all()


def test_rounding_does_not_move_a_linear_pool_across_a_gap() -> None:
    stack = np.where(np.arange(10) < 8, 0.0, 1e6)[:, None, None]
    assert sum([0.1] * 8) < 8 * 0.1
    assert linear_pool(stack, levels=[0.8]).item() == 0


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.25, 0.5, 0.25]])
def test_a_normal_pool_is_exact_for_normal_forecasts(weights: list[float]) -> None:
    """The case of the tests of hubEnsembles, which reaches 1e-3 there."""
    x, means = np.arange(-5, 5.1, 0.5), np.array([-3.0, 0.0, 3.0])[:, None]
    shares = np.array(weights)[:, None] / sum(weights)
    levels = (shares * norm.cdf(x - means)).sum(0)
    stack = (norm.ppf(levels) + means)[:, None]
    normal = linear_pool(stack, weights, levels=levels, interpolation="normal")
    assert normal[0] == pytest.approx(x, abs=1e-10)
    linear = linear_pool(stack, weights, levels=levels)
    assert 1e-3 < np.abs(linear[0] - x).max() < 0.05


@each
def test_equal_members_are_a_fixed_point(name: str) -> None:
    member = forecasts(3, n_members=1)
    stack = np.repeat(member, 3, axis=0)
    assert pool(name, stack, [1, 2, 4], levels=LEVELS) == pytest.approx(
        member[0], abs=1e-12
    )


@each
def test_a_pool_is_between_its_members_in_ascending_order(name: str) -> None:
    stack = with_absent(forecasts(4, n_units=40))
    pooled = pool(name, stack, levels=LEVELS)
    slack = 1e-12
    assert (pooled >= np.nanmin(stack, axis=0) - slack).all()
    assert (pooled <= np.nanmax(stack, axis=0) + slack).all()
    assert (np.diff(pooled) >= 0).all()


@each
def test_the_order_of_members_and_units_does_not_matter(name: str) -> None:
    stack, weights = with_absent(forecasts(5)), np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    pooled = pool(name, stack, weights, levels=LEVELS)
    backwards = pool(name, stack[::-1, ::-1], weights[::-1], levels=LEVELS)
    assert backwards[::-1] == pytest.approx(pooled, abs=1e-12)


@each
def test_a_pool_follows_a_change_of_unit(name: str) -> None:
    stack = with_absent(forecasts(6))
    pooled = pool(name, stack, levels=LEVELS)
    moved = pool(name, 1e4 * stack + 1e5, levels=LEVELS)
    assert moved == pytest.approx(1e4 * pooled + 1e5, rel=1e-9)


@each
def test_a_member_with_weight_0_counts_as_absent(name: str) -> None:
    stack = forecasts(7)
    expected = pool(name, stack[:3], [1, 2, 1], levels=LEVELS)
    pooled = pool(name, stack, [1, 2, 1, 0, 0], levels=LEVELS)
    assert pooled == pytest.approx(expected, abs=1e-12)
    stack[3:] = np.nan
    assert (pool(name, stack, [1, 2, 1, 5, 5], levels=LEVELS) == pooled).all()


@each
def test_weights_may_differ_between_units(name: str) -> None:
    stack = forecasts(8, n_members=2, n_units=2)
    each_unit = pool(name, stack, [[1, 3], [2, 1]], levels=LEVELS)
    for unit, weights in enumerate(([1, 2], [3, 1])):
        expected = pool(name, stack[:, [unit]], weights, levels=LEVELS)
        assert (each_unit[[unit]] == expected).all()


@each
def test_members_of_weight_0_count_equally_where_no_other_is(name: str) -> None:
    stack = forecasts(9, n_members=3, n_units=2)
    stack[0, 1] = np.nan
    with pytest.warns(UserWarning, match="1 of 2 units have only .* weight 0.* unit 1"):
        pooled = pool(name, stack, [1, 0, 0], levels=LEVELS)
    assert pooled[0] == pytest.approx(stack[0, 0], abs=1e-12)
    expected = pool(name, stack[1:, [1]], levels=LEVELS)
    assert pooled[[1]] == pytest.approx(expected, abs=1e-12)


@each
def test_blocks_of_units_do_not_change_a_pool(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = with_absent(forecasts(10, n_units=9))
    whole = pool(name, stack, levels=LEVELS)
    monkeypatch.setattr("ensembles.predictions.combiners.accumulation.BLOCK", 70)
    assert (pool(name, stack, levels=LEVELS) == whole).all()


@each
def test_a_single_level_and_a_single_member_are_pooled(name: str) -> None:
    stack = np.array([[[1.0]], [[3.0]], [[np.nan]]])
    (value,) = pool(name, stack, [3, 1, 1], levels=[0.5]).ravel()
    assert value == (1.5 if "mean" in name and "trimmed" not in name else value)
    assert 1 <= value <= 3
    assert pool(name, stack[:1], levels=0.5).item() == 1


@each
def test_no_units_give_no_rows(name: str) -> None:
    assert pool(name, np.empty((2, 0, 7)), levels=LEVELS).shape == (0, 7)


@each
def test_values_of_very_different_size_are_pooled(name: str) -> None:
    """A county beside the country, and a forecast that exploded."""
    stack = np.array([np.linspace(0, 4, 7), np.linspace(5, 4e15, 7)])[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooled = pool(name, stack, levels=LEVELS)
    assert np.isfinite(pooled).all()
    assert (np.diff(pooled) >= 0).all()


@each
@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_very_small_and_very_large_weights_do_not_overflow(
    name: str, scale: float
) -> None:
    stack = 1e9 * forecasts(11)
    weights = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooled = pool(name, stack, scale * weights, levels=LEVELS)
    assert pooled == pytest.approx(pool(name, stack, weights, levels=LEVELS), rel=1e-9)


def test_crossing_quantiles_are_an_error_or_sorted() -> None:
    """As scikit-learn's models, one for each level, may predict them."""
    stack = np.array([[[1.0, 3.0, 2.0]], [[1.0, 2.0, 3.0]]])
    levels = [0.1, 0.5, 0.9]
    with pytest.raises(ValueError, match=r"quantiles\[0, 0\] is \[1.0, 3.0, 2.0\]"):
        quantile_mean(stack, levels=levels)
    pooled = quantile_mean(stack, levels=levels, crossing="sort")
    assert pooled.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("stack", "options", "match"),
    [
        ([[[1, 2]]], {"levels": [0.5]}, "one column for each of 1 levels"),
        ([[1, 2]], {"levels": [0.1, 0.9]}, "must have the shape"),
        ([[[1, 2]]], {"levels": [0.9, 0.1]}, r"ascending order: levels\[1\] is 0.1"),
        ([[[1, 2]]], {"levels": [0, 0.9]}, r"above 0 and below 1: levels\[0\] is 0.0"),
        ([[[1, 2]]], {"levels": [[0.1, 0.9]]}, "levels must be a flat list"),
        ([[[1, np.nan]]], {"levels": [0.1, 0.9]}, r"quantiles\[0, 0\] lacks level 0.9"),
        ([[[1, np.inf]]], {"levels": [0.1, 0.9]}, "must be finite"),
        ([[[1, 1e301]]], {"levels": [0.1, 0.9]}, r"at most 1e\+300 in absolute value"),
        ([[[np.nan] * 2]], {"levels": [0.1, 0.9]}, r"unit 0 has none \(1 of 1 units\)"),
        ([[[1, 2]]], {"levels": [0.1, 0.9], "crossing": "fix"}, "crossing must be"),
        ([[[1, 2]]], {"levels": [0.1, 0.9], "weights": [-1]}, "must not be negative"),
        ([[[1, 2]]], {"levels": [0.1, 0.9], "weights": [[-1]]}, "must not be negative"),
        ([[[1, 2]]], {"levels": [0.1, 0.9], "weights": [[1, 1]]}, r"found \(1, 2\)"),
        ([[[1, 2]]], {"levels": [0.1, 0.9], "p": 1}, "no parameter 'p'"),
    ],
)
def test_what_cannot_be_pooled_is_an_error(
    stack: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        quantile_median(stack, **options)


def test_values_that_are_not_numbers_are_an_error() -> None:
    with pytest.raises(TypeError, match="quantiles must be real numbers"):
        quantile_mean([[["a", "b"]]], levels=[0.1, 0.9])


def test_parameters_of_rules_are_checked() -> None:
    with pytest.raises(ValueError, match="use rule 'quantile_median'"):
        quantile_trimmed_mean([[[1]]], levels=[0.5], proportion=0.5)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        linear_pool([[[1]]], levels=[0.5], interpolation="cubic")


@pytest.mark.parametrize("interpolation", ["linear", "normal"])
def test_distribution_functions_pass_through_the_quantiles(interpolation: Any) -> None:
    quantiles = np.array([[0.0, 1.0, 1.0, 5.0]])
    levels = np.array([0.1, 0.2, 0.6, 0.8])

    def function(*x: float, right: bool = True) -> Any:
        points = np.array([x])
        values = cumulative_probability(
            points, quantiles, levels, interpolation=interpolation, right=right
        )
        return values[0].tolist()

    assert function(1, right=False) == pytest.approx([0.2])
    assert function(0, 1, 5)[1:2] == pytest.approx([0.6])
    low, high = function(-1.0, 6.0)
    assert (low, high) == (0, 1) if interpolation == "linear" else low > 0 and high < 1
