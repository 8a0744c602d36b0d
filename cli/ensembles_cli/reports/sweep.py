"""Output of ``ensemble soup --sweep``: the score of each window or schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensembles_cli.console import table
from ensembles_cli.reports.average import as_number
from ensembles_cli.reports.soup_progress import format_score

if TYPE_CHECKING:
    from ensembles.checkpoints import SoupReport
    from ensembles.reports import SweepPoint


def points_of(
    report: SoupReport,
    schedules: Sequence[str],
    steps: Sequence[Any],
    plot: Path | None,
    *,
    force: bool,
) -> list[SweepPoint]:
    """Averages of a sweep, which are drawn if ``plot`` is the path of an image."""
    from ensembles.reports import SweepDisplay
    from ensembles.reports.displays.figures import save_figure
    from ensembles.reports.displays.sweep import sweep_points

    numbers = [as_number(step) for step in steps]
    if plot is not None:
        display = SweepDisplay.from_report(report, schedules=schedules, steps=numbers)
        save_figure(display.figure_, plot, force=force)
    return sweep_points(report, schedules=schedules, steps=numbers)


def print_sweep(points: Sequence[SweepPoint]) -> None:
    """Print a table of averages, the best one marked."""
    titles = {"first": "first step", "last": "last step", "n_members": "members"}
    if points[0].schedule is not None:
        titles = {"schedule": "schedule", "n_members": "members"}
    rows = []
    for point in points:
        cells = [str(getattr(point, name)) for name in titles]
        rows.append(["*" * point.is_best, *cells, format_score(point.score)])
    table(["best", *titles.values(), "score"], rows)
