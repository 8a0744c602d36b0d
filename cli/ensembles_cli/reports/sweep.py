"""Output of ``ensemble soup --sweep``: the score of each window or schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ensembles_cli.console import table
from ensembles_cli.reports.average import as_number
from ensembles_cli.reports.soup_progress import format_score

if TYPE_CHECKING:
    from ensembles.checkpoints import SoupReport

BLUE, VERMILION, GRAY = "#0072b2", "#d55e00", "#555555"  # distinct if colour-blind


class SweepPoint(NamedTuple):
    """An average of a sweep, and its score.

    Parameters
    ----------
    schedule : str or None
        Text of the schedule; None for a window.
    first_step, last_step : int or float
        Step of the first and the last member with a weight.
    n_members : int
        Number of members with a weight.
    score : float or None
        Score; None if it failed.
    is_best : bool
        Whether no average has a better score, the first among equals.
    """

    schedule: str | None
    first_step: int | float | None
    last_step: int | float | None
    n_members: int
    score: float | None
    is_best: bool


def sweep_points(
    report: SoupReport, labels: Sequence[str], steps: Sequence[Any]
) -> list[SweepPoint]:
    """Averages of a sweep, in the order in which they were scored.

    Parameters
    ----------
    report : SoupReport
        Report of the soup that the sweep has chosen.
    labels : sequence of str
        Text of each schedule; empty if the averages are windows.
    steps : sequence of Decimal
        Step of each member.

    Returns
    -------
    list of SweepPoint
    """
    step_of = dict(zip(report.members, map(as_number, steps), strict=True))
    sign = -1 if report.lower_is_better else 1
    scores = [c.score for c in report.history if c.score is not None]
    best = max(scores, key=lambda score: sign * score, default=None)
    found = [c.score for c in report.history].index(best)
    return [
        SweepPoint(
            schedule=labels[index] if labels else None,
            first_step=step_of[candidate.members[0]],
            last_step=step_of[candidate.members[-1]],
            n_members=len(candidate.members),
            score=candidate.score,
            is_best=index == found,
        )
        for index, candidate in enumerate(report.history)
    ]


def print_sweep(points: Sequence[SweepPoint]) -> None:
    """Print a table of averages, the best one marked."""
    columns = ["first_step", "last_step", "n_members"]
    if points[0].schedule is not None:
        columns = ["schedule", "n_members"]
    titles = [name.removeprefix("n_").replace("_", " ") for name in columns]
    rows = []
    for point in points:
        cells = [str(getattr(point, name)) for name in columns]
        rows.append(["*" * point.is_best, *cells, format_score(point.score)])
    table(["best", *titles, "score"], rows)


def plot_sweep(
    points: Sequence[SweepPoint],
    path: Path,
    *,
    last_score: float | None,
    lower_is_better: bool = False,
    force: bool = False,
) -> None:
    """Draw the scores of a sweep, with a line at that of the last checkpoint alone.

    Parameters
    ----------
    points : sequence of SweepPoint
        Averages of the sweep.
    path : Path
        Image to write, with the suffix ``.png``, ``.svg`` or ``.pdf``.
    last_score : float or None
        Score of the last checkpoint alone; None draws no line.
    lower_is_better : bool, default=False
        Whether lower scores are better, for the label of the axis.
    force : bool, default=False
        Whether an existing file is replaced.

    Raises
    ------
    FileExistsError
        If the file exists, unless ``force``.
    ImportError
        If matplotlib is not installed.
    """
    import numpy as np

    from ensembles.atomic_io import atomic_output
    from ensembles.checkpoints.inspection.plots import import_figure

    is_named = points[0].schedule is not None
    height = max(2.0 + 0.25 * len(points), 3.0) if is_named else 3.8
    figure = import_figure()(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    scores = np.array([np.nan if p.score is None else p.score for p in points])
    title = "score" + " (lower is better)" * lower_is_better
    draw = _draw_names if is_named else _draw_windows
    line = draw(axes, points, scores, title)
    if last_score is not None:
        line(last_score, color=GRAY, linestyle="--", label="last checkpoint alone")
    axes.legend(fontsize=8, frameon=False)
    suffix = path.suffix[1:].lower()
    with atomic_output(path, folder=False, force=force) as temporary:
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(temporary, format=suffix, dpi=150, metadata=metadata)


def _draw_windows(
    axes: Any, points: Sequence[SweepPoint], scores: Any, title: str
) -> Any:
    """Draw a curve over the number of members, or over the steps of the windows.

    Returns the method that draws a line at a score.
    """
    numbers = [point.n_members for point in points]
    is_sliding = len(set(numbers)) == 1 and len(points) > 1
    x = [point.last_step for point in points] if is_sliding else numbers
    best = [point.is_best for point in points].index(True)
    axes.plot(x, scores, "o-", color=BLUE, markersize=4, label="window")
    axes.plot(x[best], scores[best], "o", color=VERMILION, label="best window")
    axes.set_xlabel(
        f"last step of {numbers[0]} averaged checkpoints"
        if is_sliding
        else f"number of averaged checkpoints, back from step {points[0].last_step}"
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(title)
    return axes.axhline


def _draw_names(
    axes: Any, points: Sequence[SweepPoint], scores: Any, title: str
) -> Any:
    """Draw a point for each schedule, one below the other.

    Returns the method that draws a line at a score.
    """
    y = range(len(points))
    best = [point.is_best for point in points].index(True)
    axes.plot(scores, y, "o", color=BLUE, label="schedule")
    axes.plot(scores[best], best, "o", color=VERMILION, label="best schedule")
    axes.set_yticks(y, [point.schedule for point in points], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.set_xlabel(title)
    return axes.axvline
