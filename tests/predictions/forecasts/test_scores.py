"""Scores of forecasts against published numbers, hand-worked cases and loops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss

from ensembles.predictions.forecasts import (
    crps_of_quantiles,
    crps_of_samples,
    decompose_crps,
    decompose_interval_score,
    interval_coverage,
    interval_score,
    pinball_loss,
    pit_of_quantiles,
    pit_of_samples,
    weighted_interval_score,
)

LEVELS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
# The case of the tests of scoringutils and covidHubUtils.
Y = np.array([1.0, -15.0, 22.0])
QUANTILES = np.array(
    [[-1.0, 0.0, 1.0, 2.0, 3.0], [-2.0, 1.0, 2.0, 2.0, 4.0], [-2.0, 0.0, 3.0, 3.0, 4.0]]
)
# Outcomes and six samples of some units; small integers have many ties.
NUMBERS = st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)
TABLES = st.integers(1, 5).flatmap(
    lambda n_units: arrays(np.float64, (n_units, 7), elements=NUMBERS)
)
OF_QUANTILES: list[Callable[..., Any]] = [
    weighted_interval_score,
    crps_of_quantiles,
    pit_of_quantiles,
    lambda y, q, levels: interval_coverage(y, q, levels, coverage=0.8),
    lambda y, q, levels: decompose_interval_score(y, q, levels).dispersion,
]


def drawn(seed: int, n_units: int = 30, n_columns: int = 5) -> tuple[Any, Any]:
    """Outcomes, and quantiles or samples with ties."""
    rng = np.random.default_rng(seed)
    y = np.round(rng.normal(size=n_units), 1)
    return y, np.round(np.sort(rng.normal(0.3, 1.5, (n_units, n_columns))), 1)


def test_the_pinball_loss_is_that_of_scikit_learn() -> None:
    y, quantiles = drawn(0)
    losses = pinball_loss(y, quantiles, LEVELS)
    for column, level in enumerate(LEVELS):
        expected = mean_pinball_loss(y, quantiles[:, column], alpha=level)
        assert losses[:, column].mean() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([2], [0.0, 17.0, 19.0]),  # |y - m|
        ([1, 3], [0.5, 16.25, 19.75]),
        ([0, 4], [0.4, 13.6, 18.6]),
        ([0, 1, 2, 3, 4], [0.36, 15.34, 19.14]),
    ],
)
def test_the_weighted_interval_score_is_that_of_scoringutils(
    columns: list[int], expected: list[float]
) -> None:
    score = weighted_interval_score(Y, QUANTILES[:, columns], LEVELS[columns])
    assert score == pytest.approx(expected, abs=1e-12)


def test_the_weighted_interval_score_is_the_weighted_sum_of_interval_scores() -> None:
    y, quantiles = drawn(1)
    total = np.abs(y - quantiles[:, 2]) / 2
    for lower, upper in ((0, 4), (1, 3)):
        alpha = 2 * LEVELS[lower]
        ends = quantiles[:, lower], quantiles[:, upper]
        total += alpha / 2 * interval_score(y, *ends, coverage=1 - alpha)
    expected = total / 2.5
    score = weighted_interval_score(y, quantiles, LEVELS)
    assert score == pytest.approx(expected, rel=1e-12)


@given(values=TABLES, columns=st.sampled_from([[0, 1, 2, 3, 4], [1, 3], [2]]))
def test_the_parts_of_the_interval_score_add_up(values: Any, columns: Any) -> None:
    y, quantiles = values[:, 0], np.sort(values[:, 1:6])[:, columns]
    arguments = (y, quantiles, LEVELS[columns])
    parts = decompose_interval_score(*arguments)
    rounding = 1e-14 * (1 + np.abs(values).max())
    assert sum(parts) == pytest.approx(
        weighted_interval_score(*arguments), abs=rounding
    )
    assert all((part >= -rounding).all() for part in parts)


def test_parts_of_the_interval_score_worked_out_by_hand() -> None:
    parts = decompose_interval_score(Y, QUANTILES, LEVELS)
    # Widths 0.1 * 4 + 0.25 * 2 and so on, divided by 2.5.
    assert parts.dispersion == pytest.approx([0.36, 0.34, 0.54])
    assert parts.overprediction == pytest.approx([0, (8.5 + 13 + 16) / 2.5, 0])
    assert parts.underprediction == pytest.approx([0, 0, (9.5 + 18 + 19) / 2.5])


def test_an_interval_score_worked_out_by_hand() -> None:
    score = interval_score([1, 7, -3], [0, 0, 0], [2, 4, 4], coverage=0.5)
    assert score.tolist() == [2, 4 + 4 * 3, 4 + 4 * 3]


def test_scores_of_several_members_are_those_of_each() -> None:
    y, _ = drawn(3)
    members = np.array([drawn(seed)[1] for seed in (4, 5)])
    for score in OF_QUANTILES:
        both = score(y, members, LEVELS)
        assert both.shape == (2, len(y))
        assert (both[1] == score(y, members[1], LEVELS)).all()
    both = crps_of_samples(y, members)
    assert (both[1] == crps_of_samples(y, members[1])).all()


@pytest.mark.parametrize("score", OF_QUANTILES)
def test_an_absent_forecast_or_an_unknown_outcome_has_no_score(score: Any) -> None:
    """Coverage of NaN quantiles was false, or true, in other packages."""
    y, quantiles = drawn(6)
    expected = score(y, quantiles, LEVELS)
    expected[:2] = np.nan
    y[0] = quantiles[1] = np.nan
    assert np.array_equal(score(y, quantiles, LEVELS), expected, equal_nan=True)


def test_levels_of_float32_are_the_same_levels() -> None:
    levels = LEVELS.astype(np.float32)
    for score in OF_QUANTILES:
        expected = score(Y, QUANTILES, LEVELS)
        assert score(Y, QUANTILES, levels) == pytest.approx(expected, abs=1e-5)


def test_quantiles_cover_outcomes_at_their_ends() -> None:
    covered = interval_coverage([-1, 3, 3.1], [QUANTILES[0]] * 3, LEVELS, coverage=0.8)
    assert covered.tolist() == [1, 1, 0]


def test_pit_worked_out_by_hand() -> None:
    quantiles = [[0.0, 0.0, 1.0, 3.0, 4.0]] * 6
    pit = pit_of_quantiles([-1, 0, 0.5, 2, 4, 5], quantiles, LEVELS)
    # 0 and 4 are jumps: from 0 to 0.25, and from 0.9 to 1.
    assert pit == pytest.approx([0, 0.125, 0.375, 0.625, 0.95, 1])
    samples = [[0.0, 1.0, 1.0, 2.0]] * 3
    assert pit_of_samples([-1, 1, 1.5], samples).tolist() == [0, 0.5, 0.75]
    absent: Any = [[0, np.nan], [0, 1]]
    assert np.isnan(pit_of_samples([1.0, np.nan], absent)).all()


def integral(function: Callable[[Any], Any], knots: Any) -> float:
    """Gauss-Legendre quadrature between knots, exact for squares of lines."""
    nodes, node_weights = np.polynomial.legendre.leggauss(3)
    total = 0.0
    for low, high in pairwise(knots):
        x = low + (high - low) * (nodes + 1) / 2
        total += (high - low) / 2 * float(node_weights @ function(x))
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_crps_of_quantiles_is_the_integral(seed: int) -> None:
    y, quantiles = drawn(seed, n_units=8)
    scores = crps_of_quantiles(y, quantiles, LEVELS)
    for outcome, knots, score in zip(y, quantiles, scores, strict=True):
        distinct, last = np.unique(knots[::-1], return_index=True)
        highest = LEVELS[::-1][last]
        _, first = np.unique(knots, return_index=True)
        lowest = LEVELS[first]

        def squares(x: Any, of: Any = (outcome, distinct, lowest, highest)) -> Any:
            outcome, distinct, lowest, highest = of
            k = np.searchsorted(distinct, x, side="right")
            inner = np.clip(k, 1, len(distinct) - 1)
            step = lowest[inner] - highest[inner - 1]
            gap = distinct[inner] - distinct[inner - 1]
            value = highest[inner - 1] + step * (x - distinct[inner - 1]) / gap
            value = np.where(k == 0, 0, np.where(k == len(distinct), 1, value))
            return (value - (x >= outcome)) ** 2

        expected = integral(squares, np.unique([*distinct, outcome]))
        assert score == pytest.approx(expected, abs=1e-12)


def test_many_quantiles_have_the_crps_of_their_distribution() -> None:
    """That of the standard normal distribution is known."""
    levels = (np.arange(2000) + 0.5) / 2000
    y = np.array([0.0, 1.5])
    exact = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    quantiles = np.broadcast_to(norm.ppf(levels), (2, 2000))
    for score in (weighted_interval_score, crps_of_quantiles):
        assert score(y, quantiles, levels) == pytest.approx(exact, abs=1e-4)
    assert crps_of_samples(y, quantiles) == pytest.approx(exact, abs=1e-4)


def test_the_crps_of_samples_is_that_of_properscoring() -> None:
    y = [0.5, -1.0, 2.0, 3.0]
    samples = [
        [0.1, 0.4, 0.9, 2.0],
        [-1.0, -0.5, 0.0, 0.25],
        [0.5, 1.5, 1.5, 1.75],
        [3.5, 4.0, 4.25, 9.0],
    ]
    score = crps_of_samples(y, samples)
    assert score == pytest.approx([0.2125, 0.421875, 0.453125, 1.140625])
    score = crps_of_samples(y, samples, weights=[1, 2, 3, 4])
    assert score == pytest.approx([0.384, 0.69, 0.35, 1.7875])


@pytest.mark.parametrize("fair", [False, True])
def test_the_crps_of_samples_is_the_difference_of_mean_distances(fair: bool) -> None:
    y, samples = drawn(7)
    weights = np.array([1.0, 2.0, 0.0, 1.0, 3.0])
    shares = weights / weights.sum()
    pairs = np.outer(shares, shares)
    if fair:
        np.fill_diagonal(pairs, 0)
        pairs /= pairs.sum()
    scores = crps_of_samples(y, samples, weights=weights, fair=fair)
    for outcome, row, score in zip(y, samples, scores, strict=True):
        spread = (pairs * np.abs(row[:, None] - row)).sum()
        expected = shares @ np.abs(row - outcome) - spread / 2
        assert score == pytest.approx(expected, abs=1e-13)


def test_the_crps_of_large_values_keeps_its_digits() -> None:
    y, samples = drawn(8)
    moved = crps_of_samples(y + 2.0**40, samples + 2.0**40)
    assert moved == pytest.approx(crps_of_samples(y, samples), abs=1e-3)


def test_a_decomposition_of_the_crps_worked_out_by_hand() -> None:
    # Between the samples 0 and 2 the mean lengths below and above y are 1.5 and 0.5;
    # above 2 the length is 1, for the half of the outcomes that are there.
    parts = decompose_crps([1, 3], [[2, 0], [0, 2]])
    assert parts.reliability == pytest.approx(2 * 0.25**2 + 1 * 0.5**2)
    assert parts.uncertainty == pytest.approx(0.5)
    potential = 2 * 0.25 * 0.75 + 1 * 0.5 * 0.5
    assert parts.resolution == pytest.approx(0.5 - potential)


def test_an_outcome_equal_to_the_last_sample_is_not_beyond_it() -> None:
    # Length 2 between the samples, never above y; beyond, 1 for half of the outcomes.
    parts = decompose_crps([2, 3], [[0, 2], [0, 2]])
    assert parts.reliability == pytest.approx(2 * 0.5**2 + 1 * 0.5**2)


@given(values=TABLES, n_samples=st.integers(1, 6))
def test_the_parts_of_the_crps_add_up(values: Any, n_samples: int) -> None:
    y, samples = values[:, 0], values[:, 1 : n_samples + 1]
    parts = decompose_crps(y, samples)
    total = parts.reliability - parts.resolution + parts.uncertainty
    rounding = 1e-14 * (1 + np.abs(values).max())
    assert total == pytest.approx(crps_of_samples(y, samples).mean(), abs=rounding)
    assert parts.reliability >= 0


def test_the_climatology_is_reliable_without_resolution() -> None:
    y = np.random.default_rng(9).normal(size=40)
    parts = decompose_crps(y, np.broadcast_to(y, (40, 40)))
    assert parts.resolution == pytest.approx(0, abs=1e-2)
    assert parts.reliability == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(
    ("score", "arguments", "match"),
    [
        (weighted_interval_score, (Y, QUANTILES[:, :4], LEVELS[:4]), "be symmetric"),
        (decompose_interval_score, (Y, QUANTILES[:, :4], LEVELS[:4]), "be symmetric"),
        (decompose_interval_score, (Y, QUANTILES[:, ::-1], LEVELS), "not cross"),
        (crps_of_quantiles, (Y, QUANTILES[:, ::-1], LEVELS), "not cross"),
        (pinball_loss, (Y[:2], QUANTILES, LEVELS), r"shapes \(2,\) of y and \(3, 5\)"),
        (pinball_loss, (Y, QUANTILES[0], LEVELS), "one outcome for each unit"),
        (pinball_loss, (Y, QUANTILES, LEVELS[:3]), "one column for each of 3"),
        (pinball_loss, ([1, np.inf, 2], QUANTILES, LEVELS), r"y\[1\] is inf"),
        (crps_of_samples, (Y, np.empty((3, 0))), "at least one sample"),
        (decompose_crps, ([1, np.nan], [[1], [2]]), "without NaN"),
        (decompose_crps, ([1], [[[1]]]), "must have the shape"),
    ],
)
def test_what_cannot_be_scored_is_an_error(
    score: Any, arguments: Any, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        score(*arguments)


def test_intervals_that_cannot_be_scored_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"levels must have 0\.025 for coverage=0.95"):
        interval_coverage(Y, QUANTILES, LEVELS, coverage=0.95)
    with pytest.raises(ValueError, match="coverage must be between 0 and 1, found 95"):
        interval_coverage(Y, QUANTILES, LEVELS, coverage=95)
    with pytest.raises(ValueError, match=r"lower must not be above upper: at \[1\]"):
        interval_score([1, 2], [0, 3], [1, 2], coverage=0.5)
    with pytest.raises(ValueError, match="at least two weighted samples"):
        crps_of_samples([1.0], [[1.0, 2.0]], weights=[1, 0], fair=True)
