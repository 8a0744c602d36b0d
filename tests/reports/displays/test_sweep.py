"""Scores of all windows, or of several schedules, of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import SoupReport, make_soup
from ensembles.reports import SweepDisplay, SweepPoint
from ensembles.reports.displays.figures import VERMILLION
from tests.checkpoints.building import load, save

VALUES = {100: 10.0, 200: 1.0, 300: 2.0, 400: 7.0}
STEPS = list(VALUES)


def distance(path: Path) -> float:
    return float(abs(load(path)["w"][0] - 4))


def swept(folder: Path, select: str, **params: Any) -> SoupReport:
    paths = [
        save(folder / f"step_{step}.safetensors", {"w": np.array([value], np.float32)})
        for step, value in VALUES.items()
    ]
    return make_soup(
        paths,
        distance,
        folder / "out.safetensors",
        select=select,
        weights_params=params,
        lower_is_better=True,
    )


def drawn(display: SweepDisplay) -> dict[str, Any]:
    """Lines of the axes by their label."""
    return {line.get_label(): line for line in display.ax_.lines}


def test_windows_are_a_curve_over_their_number_of_members(tmp_path: Path) -> None:
    report = swept(tmp_path, "windows")
    display = SweepDisplay.from_report(report, steps=STEPS)
    lines = drawn(display)
    expected: list[list[float]] = [[1, 3], [2, 0.5], [3, 2 / 3], [4, 1]]
    np.testing.assert_allclose(lines["window"].get_xydata(), expected, rtol=1e-6)
    np.testing.assert_allclose(lines["best"].get_xydata(), [[2, 0.5]])
    assert lines["best"].get_color() == VERMILLION
    assert list(lines["last checkpoint alone"].get_ydata()) == [3, 3]
    assert display.ax_.get_xlabel() == (
        "number of averaged checkpoints, back from step 400"
    )
    assert display.ax_.get_ylabel() == "score (lower is better)"
    assert display.summary == (
        "best score 0.5: 2 checkpoints from 300 to 400; last checkpoint alone 3"
    )


def test_sliding_windows_are_a_curve_over_their_last_step(tmp_path: Path) -> None:
    report = swept(tmp_path, "windows", length=2)
    display = SweepDisplay.from_report(report, steps=STEPS, metric="loss")
    expected = [[200, 1.5], [300, 2.5], [400, 0.5]]
    np.testing.assert_allclose(drawn(display)["window"].get_xydata(), expected)
    assert display.ax_.get_xlabel() == "last step of 2 averaged checkpoints"
    assert [point.first for point in display.points] == [100, 200, 300]


def test_without_steps_windows_have_the_names_of_members(tmp_path: Path) -> None:
    report = swept(tmp_path, "windows", length=2)
    display = SweepDisplay.from_report(report)
    np.testing.assert_allclose(drawn(display)["window"].get_xdata(), [0, 1, 2])
    assert display.ax_.get_xlabel() == "windows of 2 checkpoints, in order"
    assert display.points[0].first == str(tmp_path / "step_100.safetensors")


def test_schedules_are_points_beside_their_names(tmp_path: Path) -> None:
    candidates = [[0, 0, 1, 1], [1, 1, 2, 4]]
    report = swept(tmp_path, "listed", candidates=candidates)
    display = SweepDisplay.from_report(report, schedules=["two", "ema"], steps=STEPS)
    lines = drawn(display)
    np.testing.assert_allclose(lines["schedule"].get_xydata(), [[0.5, 0], [1.375, 1]])
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == ["two", "ema"]
    assert list(lines["last checkpoint alone"].get_xdata()) == [3, 3]
    assert display.summary == "best score 0.5: two; last checkpoint alone 3"
    assert display.figsize[1] < SweepDisplay(display.points * 9).figsize[1]


def test_a_score_that_failed_is_marked() -> None:
    points = [
        SweepPoint(400, 400, 1, 2.0, is_best=True),
        SweepPoint(300, 400, 2, None),
    ]
    display = SweepDisplay(points).plot()
    np.testing.assert_array_equal(drawn(display)["no score"].get_xdata(), [2])
    assert "last checkpoint alone" not in drawn(display)
    assert display.summary == "best score 2: checkpoint 400 alone"
    assert display.to_dict() == {
        "metric": "score",
        "lower_is_better": False,
        "last_score": None,
        "averages": [
            {
                "first": first,
                "last": 400,
                "n_members": n_members,
                "score": score,
                "schedule": None,
                "is_best": n_members == 1,
            }
            for first, n_members, score in [(400, 1, 2.0), (300, 2, None)]
        ],
    }


def test_wrong_arguments_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no score is finite, so there is no sweep"):
        SweepDisplay([SweepPoint(1, 2, 2, None)])
    with pytest.raises(ValueError, match="an entry for each of 4 members, found 1"):
        SweepDisplay.from_report(swept(tmp_path, "windows"), steps=[1])


@pytest.mark.parametrize(("lower", "best"), [(True, 2), (False, 4)])
def test_without_a_mark_the_best_score_is_the_best(lower: bool, best: int) -> None:
    points = [SweepPoint(1, n, n, score) for n, score in ((2, 0.1), (3, None), (4, 3))]
    display = SweepDisplay(points, lower_is_better=lower)
    assert f": {best} checkpoints from 1 to {best}" in display.summary
    assert drawn(display.plot())["best"].get_xdata() == [best]
