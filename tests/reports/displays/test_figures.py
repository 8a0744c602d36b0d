"""Labels, image files, and what all displays have in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ensembles.reports import (
    CalibrationCurve,
    CoverageDisplay,
    DifferenceDisplay,
    DiversityDisplay,
    EnsembleSizeDisplay,
    InterpolationDisplay,
    PITDisplay,
    PlaneDisplay,
    ReliabilityDisplay,
    RunDisplay,
    SelectionPathDisplay,
    SoupPathDisplay,
    TaskVectorDisplay,
    ThresholdDisplay,
    WeightsDisplay,
)
from ensembles.reports.displays.display import Display, as_json
from ensembles.reports.displays.figures import (
    LONGEST,
    member_names,
    save_figure,
    short_names,
)
from ensembles.reports.displays.predictions.diversity import MEASURES

CORNERS = [[0, 0], [2, 0], [1, 1]]
CURVE = CalibrationCurve(np.array([0.1, 0.9]), np.array([0.0, 0.8]), np.array([20, 10]))
DISPLAYS: list[Display] = [
    RunDisplay([1, 2, 3], [2.0, np.nan, 1.0], averages={"mean": ([3], [0.9])}),
    SoupPathDisplay(["a", "b"], [2, 1], [2, np.nan], ["kept", "no score"]),
    InterpolationDisplay([0, 0.5, 1], [1, np.inf, 2], lower_is_better=True),
    PlaneDisplay(
        [0, 1], [0, 1], np.array([[1, 2], [3, np.nan]]), CORNERS, lower_is_better=True
    ),
    TaskVectorDisplay([[1, np.nan], [np.nan, np.nan]], names=["a", "b"]),
    DifferenceDisplay(["x", "y", "z"], ["w", "b"], np.eye(3)[:, :2], [1, 1, 0]),
    WeightsDisplay([0.7, 0, -0.3], names=["a", "b", "c"], scores=[1, np.nan, 2]),
    SelectionPathDisplay(["a", "+ b"], [1, np.nan], best_member=1, cross_fitted=2),
    EnsembleSizeDisplay([1, 2], [[1, 2], [3, 4]], best_first=[1, np.nan], score=2),
    ReliabilityDisplay(CURVE, members={"a": CURVE}),
    CoverageDisplay(CURVE),
    DiversityDisplay([[1, np.nan], [np.nan, 1]], names=["a", "b"], accuracy=[1, 0]),
    ThresholdDisplay([0, 1], {"f1": [1, np.nan]}, label="a", chosen=0.3, default=0.5),
    PITDisplay([0, 0.3, 0.7, 1], [5, 0, 9]),
]


def name(display: Any) -> str:
    return type(display).__name__


def no_constants(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


@pytest.mark.parametrize("display", DISPLAYS, ids=name)
def test_a_display_draws_on_given_axes_or_on_a_figure_of_its_size(
    display: Display,
) -> None:
    ax = Figure().add_subplot()
    assert display.plot(ax=ax) is display
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    again = display.plot()
    assert again.ax_ is not ax
    assert tuple(again.figure_.get_size_inches()) == pytest.approx(display.figsize)


@pytest.mark.parametrize("display", DISPLAYS, ids=name)
def test_numbers_are_json_without_nan(display: Display) -> None:
    import json

    json.loads(json.dumps(display.to_dict()), parse_constant=no_constants)
    assert display.summary == display.summary.strip()
    assert "\n" not in display.summary


LONG = [f"fine-tuned-on-a-task-with-a-long-name/seed-{n}/checkpoint" for n in range(40)]
WITH_LONG_NAMES: list[Display] = [
    RunDisplay([1, 2, 3], [2, np.nan, 1], averages={LONG[0]: ([3], [0.9])}),
    SoupPathDisplay(LONG, np.ones(40), np.ones(40), ["kept"] * 40, uniform_score=1),
    SoupPathDisplay(LONG[:2], [1, 2], [1, np.nan], ["kept", "no score"]),
    InterpolationDisplay(
        [0, 1], [1, 2], names=(LONG[0], LONG[1]), lower_is_better=True
    ),
    PlaneDisplay(
        [0, 1],
        [0, 9],
        np.array([[1, 2], [3, np.nan]]),
        CORNERS,
        corner_scores=[0.1234, 0.2345, np.nan, 0.4567],
        names=LONG[:3],
        lower_is_better=True,
    ),
    TaskVectorDisplay(np.eye(2), names=LONG[:2]),
    TaskVectorDisplay(np.eye(40), names=LONG),
    DifferenceDisplay(LONG, LONG[:2], np.eye(40)[:, :2], np.ones(40)),
    DifferenceDisplay(LONG[:2], ["w", "b"], np.eye(2), [1, np.inf], names=("a", "b")),
    WeightsDisplay([1, -1], names=LONG[:2], scores=[1, 2], score=1, metric=LONG[0]),
    WeightsDisplay(np.arange(1.0, 41), names=LONG),
    DiversityDisplay(np.eye(2), names=LONG[:2], measure=MEASURES["disagreement"]),
    DiversityDisplay(np.eye(40), names=LONG),
    ThresholdDisplay([0, 1], {name: [1, 2] for name in LONG[:8]}, label=LONG[0]),
    SelectionPathDisplay(LONG, np.arange(40.0), metric=LONG[0], lower_is_better=True),
    ReliabilityDisplay(CURVE, members=dict.fromkeys(LONG[:2], CURVE), event=LONG[0]),
]


@pytest.mark.parametrize("display", [*DISPLAYS, *WITH_LONG_NAMES], ids=name)
def test_nothing_is_cut_off(display: Display) -> None:
    figure = display.plot().figure_
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 > -0.01
    assert drawn.y0 > -0.01
    assert drawn.x1 < width + 0.01
    assert drawn.y1 < height + 0.01


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_display_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    contents = []
    for number in range(2):
        out = tmp_path / f"{number}.{suffix}"
        save_figure(RunDisplay([1, 2], [2, 1]).plot().figure_, out)
        contents.append(out.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0][:4] in (b"\x89PNG", b"<?xm", b"%PDF")


def test_what_cannot_be_written_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = Figure()
    with pytest.raises(ValueError, match=r"suffix \.png, \.svg, \.pdf, found x\.gif"):
        save_figure(figure, "x.gif")
    (tmp_path / "x.png").write_text("kept")
    with pytest.raises(FileExistsError, match=r"x\.png exists"):
        save_figure(figure, tmp_path / "x.png")
    save_figure(figure, tmp_path / "x.png", force=True)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (DISPLAYS[0].plot, lambda: save_figure(figure, tmp_path / "y.png")):
        with pytest.raises(ImportError, match=r"pip install 'ensemble-avg\[plot\]'"):
            draw()


def test_labels_are_short_and_stay_different() -> None:
    paths = [f"runs/{'x' * 50}/step-{n}/model.safetensors" for n in (100, 200)]
    assert short_names(paths) == [
        "step-100/model.safetensors",
        "step-200/model.safetensors",
    ]
    ends = [f"runs/{'x' * 50}{n}{'y' * 50}" for n in range(3)]
    labels = short_names(ends)
    assert len(set(labels)) == 3  # their middles differ, so they are not shortened
    long = short_names([f"runs/{'x' * 50}{n}" for n in range(3)])
    assert all(len(label) == LONGEST for label in long)
    assert [label[-1] for label in long] == ["0", "1", "2"]


def test_members_without_a_path_are_letters() -> None:
    assert member_names([{}] * 27)[-2:] == ["z", "a1"]
    assert member_names(["r/1.pt", "r/2.pt"]) == ["1.pt", "2.pt"]
    assert member_names([{}, {}], ("first", "second")) == ["first", "second"]
    with pytest.raises(ValueError, match="each of 2 members, found 1"):
        member_names([{}, {}], ["one"])


def test_numbers_that_are_not_finite_become_none() -> None:
    assert as_json(np.array([[1, np.nan], [np.inf, -2]])) == [[1, None], [None, -2]]
    assert as_json(np.float64(np.nan)) is None
    assert as_json(3) == 3
