"""Coverage of prediction intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from ensembles._typing import Float64
from ensembles.reports import CoverageDisplay
from ensembles.reports.displays.predictions.coverage import coverage_curve

LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]


def normal_forecasts(
    rng: np.random.Generator, scale: float = 1.0
) -> tuple[Float64, Float64]:
    """Outcomes and their forecasts, whose spread is wrong by a factor."""
    means = rng.normal(0, 3, 4000)
    quantiles = means[:, None] + scale * norm.ppf(LEVELS)
    return means + rng.normal(0, 1, 4000), quantiles


def test_calibrated_forecasts_are_on_the_diagonal(rng: np.random.Generator) -> None:
    y, quantiles = normal_forecasts(rng)
    curve = coverage_curve(y, quantiles, LEVELS)
    assert curve.predicted.tolist() == [0.5, 0.9]
    low, high = curve.interval
    assert (low < curve.predicted).all()
    assert (curve.predicted < high).all()
    y, narrow = normal_forecasts(rng, 0.5)
    assert (coverage_curve(y, narrow, LEVELS).observed < [0.4, 0.7]).all()


def test_coverage_is_counted_by_hand_and_without_absent_forecasts() -> None:
    quantiles = np.tile(np.arange(5.0), (4, 1))
    quantiles[2] = np.nan
    curve = coverage_curve([1, 3.5, 2, np.nan], quantiles, LEVELS)
    assert curve.observed.tolist() == [0.5, 1]
    assert curve.counts.tolist() == [2, 2]


def test_members_are_drawn_beside_the_ensemble(rng: np.random.Generator) -> None:
    y, quantiles = normal_forecasts(rng)
    members = np.stack([quantiles - 1, quantiles + 1])
    display = CoverageDisplay.from_predictions(
        y, quantiles, LEVELS, members=members, names=["low", "high"]
    )
    assert list(display.members) == ["low", "high"]
    assert display.curve.error < 0.02 < display.members["low"].error
    assert display.summary.startswith("coverage of 4000 forecasts: ")
    assert "of 90 % intervals" in display.summary


@pytest.mark.parametrize(
    ("y", "quantiles", "levels", "message"),
    [
        ([1], [[1, 2]], [0.1, 0.5], "symmetric around 0.5"),
        ([np.nan], [[1, 2]], [0.1, 0.9], "no forecast has an outcome"),
        ([1], [[2, 1]], [0.1, 0.9], "must not cross"),
        ([1, 2], [[1, 2]], [0.1, 0.9], "one outcome for each unit"),
    ],
)
def test_forecasts_that_have_no_coverage_are_errors(
    y: Any, quantiles: Any, levels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CoverageDisplay.from_predictions(y, quantiles, levels)
