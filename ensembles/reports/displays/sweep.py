"""Display of the scores of all windows or schedules of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from ensembles.checkpoints.soup_search.make_soup import SoupReport
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    GRAY,
    LIGHT,
    VERMILLION,
    clear_spines,
    mark_missing,
    shorten,
)


class SweepPoint(NamedTuple):
    """An average of a sweep, and its score.

    Parameters
    ----------
    first, last : int, float or str
        Step of the first and the last member with a weight; their names if the steps
        are unknown.
    n_members : int
        Number of members with a weight.
    score : float or None
        Score; None if it failed.
    schedule : str or None, default=None
        Name of the schedule; None for a window.
    is_best : bool, default=False
        Whether no average has a better score, the first among equals.
    """

    first: int | float | str
    last: int | float | str
    n_members: int
    score: float | None
    schedule: str | None = None
    is_best: bool = False


class SweepDisplay(Display):
    """Scores of all windows, or of several schedules, of a training run.

    Parameters
    ----------
    points : sequence of SweepPoint
        Averages in the order in which they are drawn. Windows are a curve over their
        number of members or, if that is the same for all, over their last step.
    last_score : float or None, default=None
        Score of the last checkpoint alone, which is drawn as a line; None draws none.
    metric : str, default="score"
        Name of the score.
    lower_is_better : bool, default=False
        Whether the score is a loss or an error.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If no score is finite.
    """

    def __init__(
        self,
        points: Sequence[SweepPoint],
        *,
        last_score: float | None = None,
        metric: str = "score",
        lower_is_better: bool = False,
    ) -> None:
        self.points = list(points)
        self.last_score = last_score
        self.metric = metric
        self.lower_is_better = lower_is_better
        self.scores = finite_or_nan([point.score for point in self.points])
        if not np.isfinite(self.scores).any():
            raise ValueError("no score is finite, so there is no sweep to draw")

    @classmethod
    def from_report(
        cls,
        report: SoupReport,
        *,
        schedules: Sequence[str] = (),
        steps: Sequence[Any] | None = None,
        metric: str = "score",
        ax: Any = None,
    ) -> Self:
        """Draw the sweep of a soup that `make_soup` returned.

        Parameters
        ----------
        report : SoupReport
            Report of a soup with ``select="windows"`` or ``select="listed"``.
        schedules : sequence of str, default=()
            Name of each entry of the list; empty for windows.
        steps : sequence of numbers or None, default=None
            Step of each member; None uses their names.
        metric : str, default="score"
            Name of the score.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        SweepDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of steps is not that of the members.
        """
        display = cls(
            sweep_points(report, schedules=schedules, steps=steps),
            last_score=report.scores[-1],
            metric=metric,
            lower_is_better=report.lower_is_better,
        )
        return display.plot(ax)

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        n_rows = len(self.points)
        return 6.4, max(2.0 + 0.25 * n_rows, 3.0) if self._is_named else 3.8

    @property
    def summary(self) -> str:
        """One line with the best average and the score of the last checkpoint."""
        best = self.points[self._best]
        name = f"{best.n_members} checkpoints from {best.first} to {best.last}"
        if best.n_members == 1:
            name = f"checkpoint {best.last} alone"
        text = f"best {self.metric} {best.score:.6g}: {best.schedule or name}"
        if self.last_score is None:
            return text
        return f"{text}; last checkpoint alone {self.last_score:.6g}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "last_score": as_json(self.last_score),
            "averages": [point._asdict() for point in self.points],
        }

    @property
    def _best(self) -> int:
        """Index of the marked average, else of the first with the best score."""
        marked = [index for index, point in enumerate(self.points) if point.is_best]
        sign = 1 if self.lower_is_better else -1
        return marked[0] if marked else int(np.nanargmin(sign * self.scores))

    @property
    def _is_named(self) -> bool:
        return self.points[0].schedule is not None

    def _draw(self, ax: Any) -> None:
        title = self.metric + " (lower is better)" * self.lower_is_better
        best = self._best
        x: Any
        y: Any
        if self._is_named:
            x, y = self.scores, np.arange(len(self.points))
            ax.set_yticks(y, [shorten(str(p.schedule)) for p in self.points])
            ax.invert_yaxis()
            ax.grid(axis="y", color=LIGHT, linewidth=0.5)
            ax.set_xlabel(title)
            ax.plot(x, y, "o", color=BLUE, label="schedule")
        else:
            x, y = self._positions(ax), self.scores
            ax.set_ylabel(title)
            ax.plot(x, y, "o-", color=BLUE, markersize=4, label="window")
            mark_missing(ax, x[np.isnan(y)])
        ax.plot(x[best], y[best], "o", color=VERMILLION, label="best")
        if self.last_score is not None:
            line = ax.axvline if self._is_named else ax.axhline
            label = "last checkpoint alone"
            line(self.last_score, color=GRAY, linestyle="--", label=label)
        ax.legend(frameon=False)
        clear_spines(ax)

    def _positions(self, ax: Any) -> Any:
        """Positions of windows, with the label of the x axis."""
        numbers = [point.n_members for point in self.points]
        if len(set(numbers)) > 1 or len(numbers) == 1:
            last = self.points[0].last
            shown = last if isinstance(last, str) else f"step {last}"
            ax.set_xlabel(f"number of averaged checkpoints, back from {shown}")
            ax.xaxis.get_major_locator().set_params(integer=True)
            return np.array(numbers)
        lasts = [point.last for point in self.points]
        if any(isinstance(last, str) for last in lasts):
            ax.set_xlabel(f"windows of {numbers[0]} checkpoints, in order")
            return np.arange(len(lasts))
        ax.set_xlabel(f"last step of {numbers[0]} averaged checkpoints")
        return np.array(lasts)


def sweep_points(
    report: SoupReport,
    *,
    schedules: Sequence[str] = (),
    steps: Sequence[Any] | None = None,
) -> list[SweepPoint]:
    """Averages of a sweep, in the order in which they were scored.

    Parameters
    ----------
    report : SoupReport
        Report of a soup with ``select="windows"`` or ``select="listed"``.
    schedules : sequence of str, default=()
        Name of each entry of the list; empty for windows.
    steps : sequence of numbers or None, default=None
        Step of each member; None uses their names.

    Returns
    -------
    list of SweepPoint

    Raises
    ------
    ValueError
        If the number of steps is not that of the members.
    """
    marks = report.members if steps is None else steps
    if len(marks) != len(report.members):
        raise ValueError(
            f"steps must have an entry for each of {len(report.members)} members, "
            f"found {len(marks)}"
        )
    mark_of = dict(zip(report.members, marks, strict=True))
    sign = -1 if report.lower_is_better else 1
    scores = [candidate.score for candidate in report.history]
    known = [score for score in scores if score is not None]
    best = scores.index(max(known, key=lambda score: sign * score, default=None))
    return [
        SweepPoint(
            first=mark_of[candidate.members[0]],
            last=mark_of[candidate.members[-1]],
            n_members=len(candidate.members),
            score=candidate.score,
            schedule=schedules[index] if schedules else None,
            is_best=index == best,
        )
        for index, candidate in enumerate(report.history)
    ]
