"""Histograms of the probability integral transform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from ensembles.reports import PITDisplay

LEVELS = np.round(np.arange(1, 20) / 20, 2)


def test_calibrated_forecasts_are_uniform(rng: np.random.Generator) -> None:
    y = rng.normal(size=5000)
    quantiles = np.tile(norm.ppf(LEVELS), (5000, 1))
    display = PITDisplay.from_predictions(y, quantiles, LEVELS)
    np.testing.assert_allclose(display.edges, np.linspace(0, 1, 11), atol=1e-12)
    expected = np.histogram(norm.cdf(y), display.edges)[0]
    np.testing.assert_array_equal(display.counts, expected)
    low, high = display.band
    assert ((low <= display.density) & (display.density <= high)).mean() >= 0.8


def test_narrow_forecasts_have_high_ends(rng: np.random.Generator) -> None:
    quantiles = np.tile(0.5 * norm.ppf(LEVELS), (1000, 1))
    display = PITDisplay.from_predictions(rng.normal(size=1000), quantiles, LEVELS)
    assert display.density @ np.diff(display.edges) == pytest.approx(1)
    middle = display.density[1:-1].max()
    assert min(display.density[[0, -1]]) > 2 * middle


def test_edges_of_bins_are_levels_so_that_few_levels_look_calibrated(
    rng: np.random.Generator,
) -> None:
    levels = [0.25, 0.5, 0.9]
    quantiles = np.tile(norm.ppf(levels), (20000, 1))
    display = PITDisplay.from_predictions(rng.normal(size=20000), quantiles, levels)
    assert display.edges.tolist() == [0, 0.25, 0.5, 0.9, 1]
    np.testing.assert_allclose(display.density, 1, atol=0.1)
    one = PITDisplay.from_predictions([0.0], quantiles[:1], levels, n_bins=1)
    assert one.edges.tolist() == [0, 1]


def test_absent_forecasts_and_unknown_outcomes_do_not_count() -> None:
    quantiles = [[0.0, 1.0], [np.nan, np.nan], [0.0, 1.0]]
    display = PITDisplay.from_predictions([2, 0, np.nan], quantiles, [0.3, 0.7])
    assert display.counts.tolist() == [0, 0, 1]
    assert display.summary.startswith("PIT of 1 forecasts: density 3.33 in [0.7, 1]")


def test_histograms_that_cannot_be_drawn_are_errors() -> None:
    with pytest.raises(ValueError, match="one entry more than counts, found 2 and 2"):
        PITDisplay([0, 1], [1, 2])
    with pytest.raises(ValueError, match="no forecast has an outcome"):
        PITDisplay([0, 1], [0])
    with pytest.raises(ValueError, match="n_bins must be at least 1, found 0"):
        PITDisplay.from_predictions([1], [[1.0]], [0.5], n_bins=0)
