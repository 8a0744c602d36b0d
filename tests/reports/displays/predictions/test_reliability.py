"""Predicted probabilities and observed frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from ensembles.predictions import calibration_error
from ensembles.reports import CalibrationCurve, ReliabilityDisplay
from ensembles.reports.displays.predictions.reliability import reliability_curve


def test_bins_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    y_proba = rng.permutation(np.linspace(0.001, 0.999, 100))
    happened = rng.uniform(size=100) < y_proba
    curve = reliability_curve(happened, y_proba, n_bins=5)
    observed, predicted = calibration_curve(
        happened, y_proba, n_bins=5, strategy="quantile"
    )
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.counts.tolist() == [20] * 5


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0, 0.25, 0.3, 1])), min_size=1),
    st.integers(1, 12),
)
def test_each_row_is_in_one_bin_with_its_equals(rows: Any, n_bins: int) -> None:
    happened, y_proba = map(np.array, zip(*rows, strict=True))
    curve = reliability_curve(happened, y_proba, n_bins=n_bins)
    assert curve.counts.sum() == len(rows)
    assert (curve.counts > 0).all()
    assert len(curve.counts) <= min(n_bins, len(np.unique(y_proba)))
    assert (np.diff(curve.predicted) > 0).all()
    assert curve.observed @ curve.counts == pytest.approx(happened.sum())
    assert curve.predicted @ curve.counts == pytest.approx(y_proba.sum())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_error_is_that_of_calibration_error(
    n_classes: int, rng: np.random.Generator
) -> None:
    y_proba = rng.dirichlet(np.ones(n_classes), 200).round(2)
    y = rng.integers(0, n_classes, 200)
    display = ReliabilityDisplay.from_predictions(y, y_proba, n_bins=7)
    scored = y_proba[:, 1] if n_classes == 2 else y_proba
    expected = calibration_error(y, scored, n_bins=7, strategy="quantile")
    assert display.curve.error == pytest.approx(expected.ece)


def test_the_error_is_the_mean_distance_of_the_bins() -> None:
    curve = CalibrationCurve(
        np.array([0.2, 0.9]), np.array([0.4, 0.8]), np.array([30, 10])
    )
    assert curve.error == pytest.approx((30 * 0.2 + 10 * 0.1) / 40)


def test_intervals_contain_the_frequency_and_end_at_0_and_1() -> None:
    observed = np.array([0, 0.5, 1])
    curve = CalibrationCurve(observed, observed, np.array([10, 10, 10]))
    low, high = curve.interval
    assert (low <= observed).all()
    assert (observed <= high).all()
    # Table 5 of Brown, Cai and DasGupta (2001): n = 10, x = 5 and x = 0.
    assert (low[1], high[1]) == pytest.approx((0.224, 0.776), abs=5e-4)
    assert (low[0], high[0]) == pytest.approx((0, 0.217), abs=5e-4)
    assert high[2] == 1


def test_of_two_classes_the_second_one_is_drawn() -> None:
    y, y_proba = ["no", "yes", "yes"], np.array([0.2, 0.4, 0.9])
    display = ReliabilityDisplay.from_predictions(y, y_proba)
    assert display.event == "yes"
    assert display.ax_.get_xlabel() == "probability of yes"
    np.testing.assert_allclose(display.curve.predicted, y_proba)
    assert display.members == {}
    first = ReliabilityDisplay.from_predictions(y, y_proba, pos_label="no")
    np.testing.assert_allclose(first.curve.predicted, np.sort(1 - y_proba))


def test_of_several_classes_the_predicted_one_is_drawn() -> None:
    y_proba = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.5, 0.1]])
    display = ReliabilityDisplay.from_predictions([0, 2, 0], y_proba, classes=[0, 1, 2])
    assert display.event is None
    np.testing.assert_allclose(display.curve.predicted, [0.5, 0.6, 0.7])
    np.testing.assert_allclose(display.curve.observed, [0, 1, 1])


def test_more_members_than_colors_are_gray() -> None:
    curve = reliability_curve([0, 1], [0.2, 0.8])
    members = {f"m{n}": curve for n in range(8)}
    display = ReliabilityDisplay(curve, members=members).plot()
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert len(labels) == 10
    assert display.summary.count("m") > 8


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pos_label": 5}, r"one of \[0, 1\], found 5"),
        ({"n_bins": 0}, "at least 1, found 0"),
        ({"members": np.ones((1, 3, 2))}, "each of 2 targets, found 3"),
    ],
)
def test_invalid_parameters_are_errors(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReliabilityDisplay.from_predictions([0, 1], [0.1, 0.8], **params)


def test_values_of_a_regression_have_no_reliability() -> None:
    with pytest.raises(ValueError, match="needs class probabilities, found values"):
        ReliabilityDisplay.from_predictions(
            [0.5, 1.5], np.ones((2, 2)), members=np.ones((2, 2))
        )
