"""Expected calibration error, at the edges where others are wrong, and its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.predictions import calibration_error


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_the_error_equals_its_definition(seed: int, n_bins: int) -> None:
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(3, 0.4), 40)
    y, weight = np.array(["a", "b", "c"])[rng.integers(0, 3, 40)], rng.random(40)
    is_right = np.array(["a", "b", "c"])[proba.argmax(axis=1)] == y
    bins = np.minimum((proba.max(axis=1) * n_bins).astype(int), n_bins - 1)
    total = 0.0
    for b in np.unique(bins):
        rows = bins == b
        gap = np.average((proba.max(axis=1) - is_right)[rows], weights=weight[rows])
        total += weight[rows].sum() * abs(gap)
    found = calibration_error(
        y, proba, classes=["a", "b", "c"], n_bins=n_bins, sample_weight=weight
    )
    assert found.ece == pytest.approx(total / weight.sum(), abs=1e-12)
    assert found.low <= found.rms <= found.high


def test_the_interval_is_that_of_its_equation() -> None:
    """Two bins of two rows: gaps of -0.1 and 0.3, each with the variance 1 / 4."""
    found = calibration_error([0, 1, 0, 1], [0.4, 0.4, 0.8, 0.8], n_bins=2)
    assert found.ece == pytest.approx(0.2)
    assert found.rms == 0
    gaps, variance, z2 = np.array([0.1, -0.3]), 0.25, 1.959963984540054**2
    estimate = np.mean(gaps**2) - variance
    true = found.high**2
    slope, constant = 4 * 0.5 * variance, 2 * 0.5 * variance**2
    assert (true - estimate) ** 2 == pytest.approx(z2 * (slope * true + constant))
    assert found.low == 0


EDGES: dict[str, tuple[Any, Any, float]] = {
    "a probability of 1 is in the last bin": ([1, 0], [0.95, 1.0], 0.475),
    "a probability of 0 counts": ([1, 1, 0], [0.0, 0.0, 0.0], 2 / 3),
    "certain and right is without error": ([0, 1], [[1.0, 0.0], [0.0, 1.0]], 0.0),
    "bins count by their rows": ([1, 0, 0, 0], [0.9, 0.1, 0.1, 0.1], 0.1),
    "rows below one half": ([0, 0, 1, 0], [[0.6, 0.4]] * 4, 0.15),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    y, proba, expected = EDGES[name]
    found = calibration_error(y, proba, classes=[0, 1])
    assert found.ece == pytest.approx(expected)


def test_a_probability_at_an_edge_is_in_the_upper_bin() -> None:
    assert calibration_error([1, 0], [0.5, 0.9], n_bins=2).ece == pytest.approx(0.2)


def test_equal_probabilities_are_one_quantile_bin() -> None:
    found = calibration_error([1, 0, 0, 0], [0.75] * 4, strategy="quantile")
    assert found.ece == pytest.approx(0.5)


def test_quantile_bins_have_equally_many_rows() -> None:
    proba = np.array([0.01, 0.02, 0.03, 0.9])
    y = np.array([0, 1, 0, 1])
    found = calibration_error(y, proba, n_bins=2, strategy="quantile")
    assert found.ece == pytest.approx((0.97 + 0.07) / 4)


def true_rms(y_proba: Any, n_bins: int, shift: Any) -> float:
    """Root-mean-square gap of the binned probabilities without noise."""
    bins = np.minimum((y_proba * n_bins).astype(int), n_bins - 1)
    sums = np.bincount(bins, shift)
    counts = np.bincount(bins).clip(1)
    return float(np.sqrt(np.sum(sums**2 / counts) / len(bins)))


@pytest.mark.parametrize("n_samples", [60, 400])
@pytest.mark.parametrize("shift", [0.0, 0.03, 0.15])
def test_intervals_contain_the_true_error(n_samples: int, shift: float) -> None:
    n_inside, grid = 0, np.linspace(0.2, 1, 100_000)
    expected = true_rms(grid, 15, shift * (grid > 0.5))
    for seed in range(200):
        rng = np.random.default_rng(seed)
        proba = rng.uniform(0.2, 1.0, n_samples)
        y = rng.random(n_samples) < proba - shift * (proba > 0.5)
        found = calibration_error(y, proba, classes=[False, True])
        n_inside += found.low <= expected <= found.high
    assert 184 <= n_inside <= 199


def test_calibrated_probabilities_have_an_interval_from_zero() -> None:
    rng = np.random.default_rng(0)
    proba = rng.random(300)
    found = calibration_error(rng.random(300) < proba, proba)
    assert found.ece > 0.05
    assert found.low == 0
    assert found.rms < found.ece


def test_integer_weights_have_the_error_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    proba, y, weight = rng.random(50), rng.integers(0, 2, 50), rng.integers(0, 3, 50)
    weighted = calibration_error(y, proba, sample_weight=weight)
    repeated = calibration_error(np.repeat(y, weight), np.repeat(proba, weight))
    assert weighted.ece == pytest.approx(repeated.ece)
    assert weighted.high > repeated.high  # fewer independent rows


def test_a_probability_above_one_by_rounding_is_one() -> None:
    rounded = np.array([[1, 0], [0, np.nextafter(np.float32(1), 2)]], np.float32)
    assert calibration_error([0, 1], rounded).ece == 0


@pytest.mark.parametrize(
    ("y", "proba", "params", "message"),
    [
        ([0, 1], [0.5], {}, r"found shapes \(1,\) and \(2,\)"),
        ([0, 1], [0.5, 1.5], {}, "between 0 and 1: found 1.5"),
        ([0, 1], [0.5, np.nan], {}, "between 0 and 1: found nan"),
        ([0, 1], [0.5, 0.5], {"strategy": "equal"}, "strategy must be one of"),
        (
            [0, 1],
            [0.5, 0.5],
            {"n_bins": 0},
            "n_bins must be at least 1",
        ),
        ([0, 1], [0.5, 0.5], {"sample_weight": [0, 0]}, "not zero for all samples"),
        ([0, 1], [0.5, 0.5], {"sample_weight": [1, np.inf]}, "contains infinity"),
        ([1, 1], [0.5, 0.5], {}, "2 columns and the labels .1."),
    ],
)
def test_wrong_input_is_refused(y: Any, proba: Any, params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_error(y, proba, **params)
