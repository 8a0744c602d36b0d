"""The line between two checkpoints, and the barrier on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

from ensembles.reports import InterpolationDisplay
from ensembles.reports.displays.figures import BLUE, GREEN, VERMILLION
from tests.checkpoints.building import save

LOSSES = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=12)


def curve(scores: list[float], *, lower: bool = True) -> InterpolationDisplay:
    alphas = np.linspace(0, 1, len(scores))
    return InterpolationDisplay(alphas, scores, lower_is_better=lower)


def lines(display: Any) -> dict[str, Any]:
    """Curves of the axes by their color."""
    return {line.get_color(): line for line in display.ax_.lines}


def test_the_barrier_is_the_height_over_the_line_between_the_ends() -> None:
    display = curve([1.0, 2.0, 5.0, 2.0, 3.0])
    np.testing.assert_array_equal(display.line, [1, 1.5, 2, 2.5, 3])
    assert display.barrier == 3
    assert display.best == 0
    assert display.summary == "barrier 3; best score 1 at alpha 0"
    assert curve([-1.0, -2.0, -5.0, -2.0, -3.0], lower=False).barrier == 3


@given(LOSSES)
def test_a_barrier_is_not_negative_and_symmetric(losses: list[float]) -> None:
    display = curve(losses)
    assert display.barrier >= 0
    assert curve(losses[::-1]).barrier == pytest.approx(display.barrier)
    mirrored = curve([-loss for loss in losses], lower=False)
    assert mirrored.barrier == display.barrier


def test_a_straight_line_has_no_barrier_in_the_picture() -> None:
    display = curve([1.0, 2.0, 3.0]).plot()
    assert display.barrier == 0
    assert VERMILLION not in lines(display)


def test_the_picture_has_curve_barrier_and_best_point() -> None:
    drawn = lines(curve([1.0, 4.0, 2.0]).plot())
    np.testing.assert_array_equal(drawn[BLUE].get_ydata(), [1, 4, 2])
    np.testing.assert_array_equal(drawn[VERMILLION].get_xdata(), [0.5, 0.5])
    np.testing.assert_array_equal(drawn[VERMILLION].get_ydata(), [1.5, 4])
    np.testing.assert_array_equal(drawn[GREEN].get_xydata(), [[0, 1]])


@pytest.mark.parametrize(
    ("scores", "barrier", "text"),
    [
        ([1, np.nan, 5, 1], 4, "barrier 4; .*; 1 of 4 points without a score"),
        ([1, np.inf, 5, 1], 4, "1 of 4 points"),
        ([np.nan, 2, 5, 1], np.nan, "barrier unknown: an end has no score; best"),
    ],
)
def test_points_without_a_score_are_marked_and_counted(
    scores: list[float], barrier: float, text: str
) -> None:
    import re

    display = curve(scores).plot()
    np.testing.assert_equal(display.barrier, barrier)
    assert re.search(text, display.summary)
    labels = [line.get_label() for line in display.ax_.lines]
    marked = display.ax_.lines[labels.index("no score")]
    missing = np.flatnonzero(~np.isfinite(scores)) / 3
    np.testing.assert_allclose(marked.get_xdata(), missing)


def test_wrong_numbers_are_one_error() -> None:
    with pytest.raises(ValueError, match=r"same shape, \(n,\); found \(2,\) and \(3,"):
        InterpolationDisplay([0, 1], [1, 2, 3], lower_is_better=True)
    with pytest.raises(ValueError, match="no score is finite"):
        curve([np.nan, np.nan])
    with pytest.raises(ValueError, match=r"at least 3 points \(--points\).*found 2"):
        InterpolationDisplay.from_checkpoints({}, {}, len, n=2, lower_is_better=True)


def test_state_dicts_and_files_are_interpolated(tmp_path: Path) -> None:
    a, b = {"w": np.array([0.0, 2.0])}, {"w": np.array([4.0, 2.0])}
    paths = [save(tmp_path / f"{n}.safetensors", d) for n, d in (("a", a), ("b", b))]

    def first_entry(state: dict[str, Any]) -> float:
        return float(state["w"][0])

    for first, second in ((a, b), paths):
        display = InterpolationDisplay.from_checkpoints(
            first, second, first_entry, n=5, lower_is_better=False
        )
        np.testing.assert_allclose(display.scores, [0, 1, 2, 3, 4])
        assert display.metric == "first entry"
    assert display.names == ("a.safetensors", "b.safetensors")
    assert display.ax_.get_ylabel() == "first entry"


Train = Callable[..., MLPClassifier]


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    X, y = load_digits(return_X_y=True)
    return X[:500] / 16, y[:500]


@pytest.fixture(scope="module")
def train(digits: tuple[Any, Any]) -> Train:
    """Train a small network, from a seed or another network."""

    def fit(seed: int, start: MLPClassifier | None = None) -> MLPClassifier:
        network = deepcopy(start) or MLPClassifier(
            (16,), solver="sgd", learning_rate_init=0.2, random_state=seed
        )
        rows = np.random.default_rng(seed).permutation(len(digits[0]))
        for _ in range(15):
            network.partial_fit(digits[0][rows], digits[1][rows], classes=np.arange(10))
        return network

    return fit


def test_a_shared_initialization_has_a_far_lower_barrier(
    digits: tuple[Any, Any], train: Train
) -> None:
    def loss(network: MLPClassifier) -> float:
        return float(log_loss(digits[1], network.predict_proba(digits[0])))

    def barrier(a: MLPClassifier, b: MLPClassifier) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # different initializations are the point
            return InterpolationDisplay.from_checkpoints(
                a, b, loss, n=5, estimator=a, lower_is_better=True
            ).barrier

    start = train(0)
    shared = barrier(train(1, start), train(2, start))
    different = barrier(train(3), train(4))
    assert different > 0.5
    assert shared < 0.02 * different


def test_points_beyond_the_checkpoints_do_not_count_in_the_barrier() -> None:
    alphas, losses = [1.5, -0.5, 0, 0.5, 1], [9.0, 3.0, 1.0, 2.0, 1.0]
    display = InterpolationDisplay(alphas, losses, lower_is_better=True)
    np.testing.assert_array_equal(display.line, [np.nan, np.nan, 1, 1, 1])
    assert display.barrier == 1
    assert VERMILLION in lines(display.plot())
    without_end = InterpolationDisplay([0, 0.5], [1, 2], lower_is_better=True)
    assert np.isnan(without_end.barrier)
