"""Display of the loss over the plane through three checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.formats.checkpoint import Keys
from ensembles.checkpoints.inspection.task_vectors import task_vector_gram
from ensembles.checkpoints.planning.options import Integers
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    COLOR_MAP,
    VERMILLION,
    import_pyplot,
    member_names,
    shorten,
)
from ensembles.reports.displays.scored_points import (
    Score,
    open_members,
    score_name,
    score_points,
)

FLAT = 1e-6  # relative height of a triangle whose corners are on one line
N_LEVELS = 14  # contours
SHOWN = 0.9  # share of the points with a color of their own; worse ones share the last
MARKERS, SIZES = "o^s*", (8, 8, 8, 14)  # of the checkpoints and their mean


class Plane(NamedTuple):
    """Points of a plane through three checkpoints, and their weights.

    Parameters
    ----------
    x, y : ndarray of shape (n,)
        Coordinates of the columns and rows of a grid, in units of parameters.
    corners : ndarray of shape (3, 2)
        Coordinates of the checkpoints.
    weights : ndarray of shape (n * n + 4, 3)
        Weights of the checkpoints: row after row of the grid, then each checkpoint
        alone, and their mean.
    """

    x: Float64
    y: Float64
    corners: Float64
    weights: Float64

    def split(self, scores: Float64) -> tuple[Float64, Float64]:
        """Scores of the grid and of the checkpoints with their mean.

        Parameters
        ----------
        scores : ndarray of shape (n * n + 4,)
            Score of each row of ``weights``.

        Returns
        -------
        grid : ndarray of shape (n, n)
            A row for each entry of ``y``.
        corner_scores : ndarray of shape (4,)
            Scores of the checkpoints and of their mean.
        """
        return scores[:-4].reshape(len(self.y), len(self.x)), scores[-4:]


def plane_through(gram: Float64, n: int, margin: float) -> Plane:
    """Grid of points on the plane through three checkpoints a, b and c.

    The first axis points from a to b. The second is the part of c - a that is
    orthogonal to it (Gram-Schmidt).

    Parameters
    ----------
    gram : ndarray of shape (2, 2)
        Inner products of b - a and c - a.
    n : int, at least 2
        Number of points in each direction.
    margin : float, non-negative
        Width of the border around the checkpoints, relative to their extent.

    Returns
    -------
    Plane

    Raises
    ------
    ValueError
        If the checkpoints are on one line, have NaN or infinity, or ``n`` or ``margin``
        is out of range.
    """
    if n < 2 or margin < 0:
        raise ValueError(
            "a plane needs at least 2 points in each direction (--points) and a margin "
            f"of at least 0 (--margin); found {n} and {margin:g}"
        )
    if not np.isfinite(gram).all():
        raise ValueError("the checkpoints of a plane must not have NaN or infinity")
    width = np.sqrt(gram[0, 0])
    foot = gram[0, 1] / width if width else 0.0
    height = np.sqrt(max(gram[1, 1] - foot**2, 0.0))
    if height <= FLAT * max(width, np.sqrt(gram[1, 1])) or not width:
        raise ValueError(
            "the three checkpoints of a plane must differ, and not be on one "
            "line; draw the line between two of them (ensemble plot line)"
        )
    corners = np.array([[0.0, 0.0], [width, 0.0], [foot, height]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    border = margin * (high - low)
    x, y = np.linspace(low - border, high + border, n).T
    third = np.repeat(y / height, n)
    second = (np.tile(x, n) - third * foot) / width
    grid = np.stack([1 - second - third, second, third], axis=1)
    weights = np.concatenate([grid, np.eye(3), np.full((1, 3), 1 / 3)])
    return Plane(x, y, corners, weights)


def gram_of_plane(
    members: Sequence[Any], *, key: Keys = None, **options: Any
) -> Float64:
    """Inner products of the differences of two checkpoints from a first one.

    Parameters
    ----------
    members : sequence of three paths, state dicts or fitted estimators
        Checkpoints.
    key : str, sequence of str or None, default=None
        Key of the state dict in PyTorch files, as in `average`.
    **options
        Options of `task_vector_gram`, such as ``missing``.

    Returns
    -------
    ndarray of shape (2, 2)
    """
    first, *others = open_members(members, key=key)
    return task_vector_gram(others, first, **options)


class PlaneDisplay(Display):
    """Score over the plane through three checkpoints, with contours.

    The checkpoints and their mean are marked. Distances on the axes are distances of
    parameters. Points that are worse than nine tenths of the others share one color.

    Parameters
    ----------
    x, y : array-like of shape (n_columns,) and (n_rows,)
        Coordinates of the columns and rows of the grid.
    scores : array-like of shape (n_rows, n_columns)
        Score of each point; NaN or infinity for a score that failed.
    corners : array-like of shape (3, 2)
        Coordinates of the checkpoints.
    corner_scores : array-like of shape (4,) or None, default=None
        Scores of the checkpoints and of their mean; None shows no numbers.
    names : sequence of 3 str, default=("a", "b", "c")
        Names of the checkpoints.
    metric : str, default="loss"
        Name of the score.
    lower_is_better : bool
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
        If the shapes do not fit together, or no score is finite.

    References
    ----------
    Garipov et al. (2018), "Loss surfaces, mode connectivity, and fast ensembling of
    DNNs", NeurIPS, appendix A.1: the basis of the plane. The contours there are
    logarithmic; here they are linear.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        scores: ArrayLike,
        corners: ArrayLike,
        *,
        lower_is_better: bool,
        corner_scores: ArrayLike | None = None,
        names: Sequence[str] = ("a", "b", "c"),
        metric: str = "loss",
    ) -> None:
        self.x, self.y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        self.scores = finite_or_nan(scores)
        self.corners = np.asarray(corners, np.float64)
        self.corner_scores = (
            None if corner_scores is None else finite_or_nan(corner_scores)
        )
        self.names = list(names)
        self.metric = metric
        self.lower_is_better = lower_is_better
        shape = (*self.y.shape, *self.x.shape)
        if self.scores.shape != shape or self.corners.shape != (3, 2):
            raise ValueError(
                f"scores must have the shape {shape}, (n_rows, n_columns), and corners "
                f"(3, 2); found {self.scores.shape} and {self.corners.shape}"
            )
        if not np.isfinite(self.scores).any():
            raise ValueError(f"no {metric} is finite, so there is no plane to draw")

    @classmethod
    def from_checkpoints(
        cls,
        a: Any,
        b: Any,
        c: Any,
        score: Score,
        *,
        lower_is_better: bool,
        n: int = 11,
        margin: float = 0.25,
        estimator: Any = None,
        integers: Integers = "error",
        names: Sequence[str] | None = None,
        metric: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Score a grid on the plane through three checkpoints, and draw it.

        Parameters
        ----------
        a, b, c : path, state dict or fitted estimator
            Checkpoints, which must not be on one line.
        score : callable (state dict or estimator) -> float
            Score of a state dict, or of ``estimator`` if it is given; called
            ``n * n + 4`` times.
        n : int, default=11
            Number of points in each direction.
        margin : float, default=0.25
            Width of the border around the checkpoints, relative to their extent.
        estimator : object or None, default=None
            Estimator that receives the parameters of each point, as in `ModelSoup`;
            None passes state dicts to ``score``.
        integers : {"error", "first", "max"}, default="error"
            How to merge integer tensors that differ, as in `average`.
        names : sequence of 3 str or None, default=None
            Names of the checkpoints; None uses their paths, or letters.
        metric : str or None, default=None
            Name of the score; None uses the name of the function.
        lower_is_better : bool
            Whether the score is a loss or an error.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        PlaneDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If the checkpoints cannot be averaged, are on one line, or no score is
            finite.
        """
        import_pyplot()
        members = [a, b, c]
        labels = member_names(members, names)
        plane = plane_through(gram_of_plane(members), n, margin)
        scores = score_points(
            members, plane.weights, score, estimator=estimator, integers=integers
        )
        grid, corner_scores = plane.split(scores)
        display = cls(
            plane.x,
            plane.y,
            grid,
            plane.corners,
            corner_scores=corner_scores,
            names=labels,
            metric=score_name(score) if metric is None else metric,
            lower_is_better=lower_is_better,
        )
        return display.plot(ax)

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        extent = np.ptp(self.x), np.ptp(self.y)
        width = 3.6 * extent[0] / extent[1] if extent[1] else 6.0
        return min(max(width, 3.0), 7.0) + 1.8, 5.6

    @property
    def summary(self) -> str:
        """One line with the scores of the checkpoints and of their mean."""
        n_failed = int(np.isnan(self.scores).sum())
        failed = f"; {n_failed} of {self.scores.size} points without a score"
        return f"{self.metric}: {', '.join(self._labels())}{failed * (n_failed > 0)}"

    def _labels(self) -> list[str]:
        """Names of the checkpoints and of their mean, with their scores."""
        names = [*(shorten(name, 26) for name in self.names), "mean"]
        if self.corner_scores is None:
            return names
        scores = self.corner_scores.tolist()
        return [
            f"{name} {'without a score' if np.isnan(score) else f'{score:.4g}'}"
            for name, score in zip(names, scores, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        corner_scores = self.corner_scores
        return {
            "names": self.names,
            "metric": self.metric,
            "x": as_json(self.x),
            "y": as_json(self.y),
            "scores": as_json(self.scores),
            "corners": as_json(self.corners),
            "corner_scores": None
            if corner_scores is None
            else as_json(corner_scores[:3]),
            "mean_score": None if corner_scores is None else as_json(corner_scores[3]),
        }

    def _levels(self) -> Float64:
        """Contour levels: equally spaced, without the worst tenth of the points."""
        scores = self.scores[np.isfinite(self.scores)]
        if self.lower_is_better:
            low, high = scores.min(), np.quantile(scores, SHOWN)
        else:
            low, high = np.quantile(scores, 1 - SHOWN), scores.max()
        from matplotlib.ticker import MaxNLocator

        width = max(high - low, 1e-9 * max(abs(low), abs(high)), 1e-300)
        return np.asarray(MaxNLocator(N_LEVELS).tick_values(low, low + width))

    def _draw(self, ax: Any) -> None:
        levels = self._levels()
        # The better end is bright in both cases.
        colors = f"{COLOR_MAP}_r" if self.lower_is_better else COLOR_MAP
        filled = ax.contourf(
            self.x,
            self.y,
            np.ma.masked_invalid(self.scores),
            levels=levels,
            cmap=colors,
            extend="max" if self.lower_is_better else "min",
        )
        ax.figure.colorbar(filled, ax=ax).set_label(self.metric)
        points = np.vstack([self.corners, self.corners.mean(axis=0)])
        for marker, size, point, label in zip(
            MARKERS, SIZES, points, self._labels(), strict=True
        ):
            ax.plot(  # white with a black edge is visible on each color
                *point,
                marker,
                color="white",
                markeredgecolor="black",
                markersize=size,
                label=label,
            )
        rows, columns = np.nonzero(np.isnan(self.scores))
        if len(rows):
            ax.plot(
                self.x[columns],
                self.y[rows],
                "x",
                color=VERMILLION,
                markersize=5,
                label="no score",
            )
        ax.set_xlabel(f"distance towards {shorten(self.names[1], 24)}")
        ax.set_ylabel("orthogonal distance")
        ax.set_aspect("equal", adjustable="box")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
