"""A metric along a run, with its averages."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import Run, RunCheckpoint
from ensembles.reports import RunDisplay
from ensembles.reports.displays.figures import BLUE, CURVES
from ensembles.reports.displays.run import window_weights


def run_of(*checkpoints: RunCheckpoint) -> Run:
    return Run(folder=Path("run"), layout="numbers", checkpoints=checkpoints)


def at(step: int, **fields: Any) -> RunCheckpoint:
    return RunCheckpoint(path=Path(f"run/{step}.pt"), step=Decimal(step), **fields)


RUN = run_of(
    at(100, metrics={"loss": 2.0, "f1": 0.1}, epoch=Decimal("0.5")),
    at(300, metrics={"loss": 1.0}, epoch=Decimal("1.5")),
    at(200, metrics={"f1": 0.3}, epoch=Decimal(1), tokens=Decimal(9)),
    at(400, metrics={"loss": 9.0}, role="average"),
    RunCheckpoint(path=Path("run/last.pt"), role="copy", metrics={"loss": 1.0}),
)


def curves(display: RunDisplay) -> dict[str, Any]:
    """Curves of the axes by their label."""
    return {line.get_label(): line for line in display.ax_.lines}


def test_the_metric_of_the_checkpoints_is_drawn_in_the_order_of_training() -> None:
    display = RunDisplay.from_run(
        RUN, "loss", averages={"mean": ([200, 300], [1.2, 0.9])}
    )
    drawn = curves(display)
    expected = [[100, 2], [200, np.nan], [300, 1]]
    np.testing.assert_array_equal(drawn["checkpoints"].get_xydata(), expected)
    np.testing.assert_array_equal(drawn["mean"].get_xydata(), [[200, 1.2], [300, 0.9]])
    np.testing.assert_array_equal(drawn["no score"].get_xdata(), [200])
    assert drawn["checkpoints"].get_color() == BLUE
    assert drawn["mean"].get_color() == CURVES[0]
    assert display.ax_.get_xlabel() == "steps"
    assert display.ax_.get_ylabel() == "loss"
    labels = display.ax_.get_legend_handles_labels()[1]
    assert labels == ["checkpoints", "mean", "no score"]
    assert display.summary == (
        "loss of 3 checkpoints from 2 at step 100 to 1 at step 300; mean from 1.2 at "
        "step 200 to 0.9 at step 300; 1 without a score"
    )


def test_the_unit_of_the_axis_can_be_chosen() -> None:
    display = RunDisplay.from_run(RUN, "f1", counter="epoch")
    np.testing.assert_array_equal(display.positions, [0.5, 1, 1.5])
    np.testing.assert_array_equal(display.scores, [0.1, 0.3, np.nan])
    assert display.ax_.get_xlabel() == "epochs"
    with pytest.raises(
        ValueError, match=r"must have a number of tokens .*, 1 with tokens"
    ):
        RunDisplay.from_run(RUN, "f1", counter="tokens")
    with pytest.raises(ValueError, match="must be one of step, epoch, tokens"):
        RunDisplay([1], [1], counter="hours")
    with pytest.raises(ValueError, match="must be one of step, epoch, tokens"):
        RunDisplay.from_run(RUN, "f1", counter="hours")
    unknown = RunCheckpoint(path=Path("run/x.pt"), metrics={"f1": 1.0})
    with pytest.raises(ValueError, match=r"3 checkpoints, 2 with step, 2 with epoch"):
        RunDisplay.from_run(run_of(*RUN.checkpoints[:2], unknown), "f1")


def test_a_wrong_metric_is_an_error_that_lists_the_metrics() -> None:
    with pytest.raises(ValueError, match=r"has several metrics; .* one of loss, f1"):
        RunDisplay.from_run(RUN)
    with pytest.raises(ValueError, match="has no 'acc'; pass metric=NAME"):
        RunDisplay.from_run(RUN, "acc")
    with pytest.raises(ValueError, match=r"run has no metrics.*--score COMMAND"):
        RunDisplay.from_run(run_of(at(1)))
    display = RunDisplay.from_run(run_of(at(1, metrics={"ppl": 3.0})))
    assert display.metric == "ppl"


def test_wrong_curves_are_errors() -> None:
    with pytest.raises(ValueError, match="of mean must have the same shape"):
        RunDisplay([1, 2], [1, 2], averages={"mean": ([1], [1, 2])})
    with pytest.raises(ValueError, match="no score is finite"):
        RunDisplay([1, 2], [np.nan, np.inf])


@pytest.mark.parametrize(("n", "marker"), [(2, "o"), (40, "o"), (500, "")])
def test_long_runs_have_no_markers(n: int, marker: str) -> None:
    display = RunDisplay(range(n), np.ones(n)).plot()
    assert display.ax_.lines[0].get_marker() in (marker, marker or "None")
    assert display.ax_.get_legend() is None


def test_windows_are_means_of_consecutive_checkpoints() -> None:
    weights, parts = window_weights(4, [2, 4])
    np.testing.assert_array_equal(weights[:4], np.eye(4))
    expected = [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]
    np.testing.assert_array_equal(weights[parts[0]], expected)
    np.testing.assert_array_equal(weights[parts[1]], [[0.25] * 4])
    with pytest.raises(ValueError, match="number of checkpoints, 4; found 5"):
        window_weights(4, [5])


def test_checkpoints_are_drawn_in_the_order_of_their_positions() -> None:
    display = RunDisplay([300, 100], [1.0, 2.0], metric="loss")
    np.testing.assert_array_equal(display.positions, [100, 300])
    expected = "loss of 2 checkpoints from 2 at step 100 to 1 at step 300"
    assert display.summary == expected
    assert RunDisplay([1], [2.0]).summary.startswith("score of 1 checkpoint from")
    with pytest.raises(ValueError, match="positions of score must be finite"):
        RunDisplay([1, np.nan], [1.0, 2.0])


def test_many_averages_differ_in_style_and_have_their_legend_outside() -> None:
    averages = {f"mean of {n}": ([1, 2], [1.0, n]) for n in range(7)}
    display = RunDisplay([1, 2], [1.0, 2.0], averages=averages, metric="x" * 90).plot()
    styles = {(c.get_color(), c.get_linestyle()) for c in curves(display).values()}
    assert len(styles) == 8
    display.figure_.canvas.draw()
    legend = display.ax_.get_legend().get_window_extent()
    assert legend.x0 >= display.ax_.get_window_extent().x1
    assert legend.x1 <= display.figure_.bbox.x1
    assert len(display.ax_.get_ylabel()) == 40
