"""Display of a metric along a training run, with the scores of averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    CURVES,
    clear_spines,
    import_pyplot,
    mark_missing,
    shorten,
)

COUNTERS = {"step": "steps", "epoch": "epochs", "tokens": "tokens"}
NAMES = {"step": "a step", "epoch": "an epoch", "tokens": "a number of tokens"}
MOST_MARKERS = 60  # points; with more, a curve has no markers
MOST_INSIDE = 5  # entries of a legend inside of the axes
Curve = tuple[ArrayLike, ArrayLike]


class RunDisplay(Display):
    """Metric of the checkpoints of a training run, with the scores of averages.

    Parameters
    ----------
    positions : array-like of shape (n_checkpoints,)
        Step, epoch or number of tokens of each checkpoint.
    scores : array-like of shape (n_checkpoints,)
        Metric of each checkpoint; NaN or infinity for a score that failed.
    averages : mapping of str to (positions, scores) or None, default=None
        Curves of averages by their names, such as "mean of the last 5": positions of
        the last checkpoint of each average, and its scores. None draws none.
    counter : {"step", "epoch", "tokens"}, default="step"
        Unit of the positions.
    metric : str, default="score"
        Name of the metric.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If positions and scores differ in shape, a position is not finite, or no score
        is.

    Examples
    --------
    >>> display = RunDisplay([100, 200], [2.0, 1.5], metric="loss")
    >>> display.summary
    'loss of 2 checkpoints from 2 at step 100 to 1.5 at step 200'
    """

    def __init__(
        self,
        positions: ArrayLike,
        scores: ArrayLike,
        *,
        averages: Mapping[str, Curve] | None = None,
        counter: str = "step",
        metric: str = "score",
    ) -> None:
        _check_counter(counter)
        self.counter = counter
        self.metric = metric
        self.positions, self.scores = _curve(metric, positions, scores)
        self.averages = {
            name: _curve(name, *curve) for name, curve in (averages or {}).items()
        }
        curves = [self.scores, *(curve[1] for curve in self.averages.values())]
        if not any(np.isfinite(curve).any() for curve in curves):
            raise ValueError(f"no {metric} is finite, so there is no curve to draw")

    @classmethod
    def from_run(
        cls,
        run: Run,
        metric: str | None = None,
        *,
        averages: Mapping[str, Curve] | None = None,
        counter: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw a metric that a run's folder has for its checkpoints.

        Checkpoints without the metric are marked. Copies, averages and files that are
        not completely written are left out.

        Parameters
        ----------
        run : Run
            Run, as from `ensembles.checkpoints.read_run`.
        metric : str or None, default=None
            Name of the metric; None takes the only one.
        averages : mapping of str to (positions, scores) or None, default=None
            Curves of averages, as in the constructor.
        counter : {"step", "epoch", "tokens"} or None, default=None
            Unit of the x axis; None takes the first that all checkpoints have.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        RunDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the run has no such metric or counter, or several metrics and ``metric``
            is None.
        """
        import_pyplot()
        metric = resolve_metric(run, metric)
        unit, checkpoints = positions_of(run, counter)
        display = cls(
            [float(getattr(checkpoint, unit)) for checkpoint in checkpoints],
            [checkpoint.metrics.get(metric, np.nan) for checkpoint in checkpoints],
            averages=averages,
            counter=unit,
            metric=metric,
        )
        return display.plot(ax)

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return (9.6 if len(self.averages) >= MOST_INSIDE else 6.4), 3.8

    @property
    def summary(self) -> str:
        """One line with the first and the last score, and those of the averages."""
        n_scores = len(self.scores)
        text = f"{self.metric} of {n_scores} checkpoint{'s' * (n_scores > 1)}"
        text += self._range(self.positions, self.scores)
        for name, (positions, scores) in self.averages.items():
            text += f"; {name}{self._range(positions, scores)}"
        n_missing = int(np.isnan(self.scores).sum())
        return text + f"; {n_missing} without a score" * (n_missing > 0)

    def _range(self, positions: Float64, scores: Float64) -> str:
        scored = np.flatnonzero(np.isfinite(scores))
        if not len(scored):
            return " without a score"
        first, last = scored[[0, -1]]
        return (
            f" from {scores[first]:.4g} at {self.counter} {positions[first]:g} to "
            f"{scores[last]:.4g} at {self.counter} {positions[last]:g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "metric": self.metric,
            "counter": self.counter,
            "positions": as_json(self.positions),
            "scores": as_json(self.scores),
            "averages": {
                name: {"positions": as_json(positions), "scores": as_json(scores)}
                for name, (positions, scores) in self.averages.items()
            },
        }

    def _draw(self, ax: Any) -> None:
        curves = {"checkpoints": (self.positions, self.scores), **self.averages}
        for number, (name, (positions, scores)) in enumerate(curves.items()):
            color = CURVES[(number - 1) % len(CURVES)] if number else BLUE
            marker = "o" if len(scores) <= MOST_MARKERS else ""
            ax.plot(
                positions,
                scores,
                marker=marker,
                markersize=4,
                color=color,
                linestyle="-" if number <= len(CURVES) else "--",
                alpha=0.75 if color == BLUE and self.averages else 1,
                label=shorten(name, 40),
            )
        mark_missing(
            ax, np.concatenate([x[np.isnan(scores)] for x, scores in curves.values()])
        )
        ax.set_xlabel(COUNTERS[self.counter])
        ax.set_ylabel(shorten(self.metric, 40))
        n_labels = len(ax.get_legend_handles_labels()[1])
        if n_labels > MOST_INSIDE:
            ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        elif n_labels > 1:
            ax.legend(frameon=False)
        clear_spines(ax)


def _curve(name: str, positions: ArrayLike, scores: ArrayLike) -> tuple[Float64, ...]:
    """Positions and scores as arrays of one shape, in the order of the positions."""
    x, y = np.asarray(positions, np.float64), finite_or_nan(scores)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"positions and scores of {name} must have the same shape, (n,); found "
            f"{x.shape} and {y.shape}"
        )
    if not np.isfinite(x).all():
        raise ValueError(f"positions of {name} must be finite, found {x}")
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _check_counter(counter: str) -> None:
    if counter not in COUNTERS:
        raise ValueError(
            f"counter must be one of {', '.join(COUNTERS)}, found {counter!r}"
        )


def resolve_metric(run: Run, metric: str | None) -> str:
    """Name of a metric that the checkpoints of a run have.

    Parameters
    ----------
    run : Run
        Run with metrics.
    metric : str or None
        Name of the metric; None takes the only one.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the run has no metrics, has no such metric, or has several and ``metric`` is
        None.
    """
    names = list(dict.fromkeys(n for c in run.checkpoints for n in c.metrics))
    if not names:
        raise ValueError(
            f"{run.folder} has no metrics of its checkpoints; score them: pass "
            "averages=... to the display, or --score COMMAND"
        )
    if metric is None and len(names) == 1:
        return names[0]
    if metric not in names:
        problem = "has several metrics" if metric is None else f"has no {metric!r}"
        raise ValueError(
            f"{run.folder} {problem}; pass metric=NAME (--metric NAME), one of "
            f"{', '.join(names)}"
        )
    return metric


def positions_of(run: Run, counter: str | None) -> tuple[str, list[RunCheckpoint]]:
    """Unit of the x axis, and the checkpoints of a run in its order.

    Parameters
    ----------
    run : Run
        Run.
    counter : {"step", "epoch", "tokens"} or None
        Unit; None takes the first that all checkpoints have.

    Returns
    -------
    counter : str
        Unit of the x axis.
    checkpoints : list of RunCheckpoint
        Checkpoints of the run, without copies and averages.

    Raises
    ------
    ValueError
        If a checkpoint does not have the unit, or there are no checkpoints.
    """
    if counter is not None:
        _check_counter(counter)
    checkpoints = [c for c in run.checkpoints if c.role == "checkpoint"]
    counts = {
        unit: sum(getattr(c, unit) is not None for c in checkpoints)
        for unit in COUNTERS
    }
    units = [unit for unit, count in counts.items() if 0 < count == len(checkpoints)]
    unit = units[0] if counter is None and units else counter
    if unit not in units:
        listed = ", ".join(f"{count} with {unit}" for unit, count in counts.items())
        name = NAMES[unit or "step"]
        raise ValueError(
            f"all checkpoints of {run.folder} must have {name} (counter, --by): found "
            f"{len(checkpoints)} checkpoints, {listed}"
        )
    return str(unit), sorted(checkpoints, key=lambda c: getattr(c, str(unit)))


def window_weights(
    n_checkpoints: int, windows: Sequence[int]
) -> tuple[Float64, list[slice]]:
    """Weights of each checkpoint alone, then of the means of consecutive checkpoints.

    Parameters
    ----------
    n_checkpoints : int
        Number of checkpoints.
    windows : sequence of int
        Numbers of consecutive checkpoints to average.

    Returns
    -------
    weights : ndarray of shape (n_points, n_checkpoints)
        Rows with sum 1.
    parts : list of slice
        Rows of each window.

    Raises
    ------
    ValueError
        If a window is larger than the run.
    """
    rows, parts = [np.eye(n_checkpoints)], []
    n_points = n_checkpoints
    for size in windows:
        if size > n_checkpoints:
            raise ValueError(
                f"a window must be at most the number of checkpoints, {n_checkpoints}; "
                f"found {size}"
            )
        steps = np.arange(n_checkpoints)
        ends = np.arange(size - 1, n_checkpoints)[:, None]
        rows.append(np.where((steps <= ends) & (steps > ends - size), 1 / size, 0.0))
        parts.append(slice(n_points, n_points + len(ends)))
        n_points += len(ends)
    return np.concatenate(rows), parts
