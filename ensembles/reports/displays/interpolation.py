"""Display of the score along the line between two checkpoints."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.planning.options import Integers
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    GRAY,
    GREEN,
    VERMILLION,
    clear_spines,
    import_pyplot,
    mark_missing,
    member_names,
    shorten,
)
from ensembles.reports.displays.scored_points import Score, score_name, score_points


def line_weights(n: int) -> Float64:
    """Weights of two checkpoints at equally spaced points of the line between them.

    Parameters
    ----------
    n : int, at least 3
        Number of points, with both ends.

    Returns
    -------
    ndarray of shape (n, 2), float64
        Rows ``(1 - alpha, alpha)``, for alpha from 0 to 1.

    Raises
    ------
    ValueError
        If there are fewer than three points.
    """
    if n < 3:
        raise ValueError(
            f"a line needs at least 3 points (--points), with both ends; found {n}"
        )
    alphas = np.arange(n) / (n - 1)
    return np.stack([1 - alphas, alphas], axis=1)


class InterpolationDisplay(Display):
    """Score along the line between two checkpoints, with the height of the barrier.

    With a base and a fine-tuned model it is the curve of WiSE-FT. With two models that
    were trained independently it shows the barrier between them.

    Parameters
    ----------
    alphas : array-like of shape (n,)
        Position of each point: 0 is the first checkpoint, 1 the second. Points beyond
        them are drawn, and do not count in the barrier.
    scores : array-like of shape (n,)
        Score of each point; NaN or infinity for a score that failed.
    names : pair of str, default=("a", "b")
        Names of the two checkpoints.
    metric : str, default="score"
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
        If the shapes of ``alphas`` and ``scores`` differ, or no score is finite.

    References
    ----------
    Frankle et al. (2020), "Linear mode connectivity and the lottery ticket
    hypothesis", ICML, section 2. The barrier here is relative to the line between the
    scores of both ends, as in Entezari et al. (2022), "The role of permutation
    invariance in linear mode connectivity of neural networks", ICLR; Frankle et al.
    subtract the mean of both ends, which is the same if they score the same.
    Wortsman et al. (2022), "Robust fine-tuning of zero-shot models", CVPR.

    Examples
    --------
    >>> display = InterpolationDisplay(
    ...     [0, 0.5, 1], [1.0, 4.0, 2.0], lower_is_better=True
    ... )
    >>> display.barrier
    2.5
    """

    def __init__(
        self,
        alphas: ArrayLike,
        scores: ArrayLike,
        *,
        lower_is_better: bool,
        names: tuple[str, str] = ("a", "b"),
        metric: str = "score",
    ) -> None:
        self.alphas = np.asarray(alphas, np.float64)
        self.scores = finite_or_nan(scores)
        self.names = names
        self.metric = metric
        self.lower_is_better = lower_is_better
        if self.alphas.ndim != 1 or self.alphas.shape != self.scores.shape:
            raise ValueError(
                "alphas and scores must have the same shape, (n,); found "
                f"{self.alphas.shape} and {self.scores.shape}"
            )
        if not np.isfinite(self.scores).any():
            raise ValueError(f"no {metric} is finite, so there is no curve to draw")

    @classmethod
    def from_checkpoints(
        cls,
        a: Any,
        b: Any,
        score: Score,
        *,
        lower_is_better: bool,
        n: int = 11,
        estimator: Any = None,
        integers: Integers = "error",
        names: tuple[str, str] | None = None,
        metric: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Score the line between two checkpoints, and draw it.

        Parameters
        ----------
        a, b : path, state dict or fitted estimator
            Checkpoints at both ends of the line.
        score : callable (state dict or estimator) -> float
            Score of a state dict, or of ``estimator`` if it is given. Running
            statistics of BatchNorm do not fit a mean of parameters: recompute them in
            ``score``.
        n : int, default=11
            Number of points, with both ends.
        estimator : object or None, default=None
            Estimator that receives the parameters of each point, as in `ModelSoup`;
            None passes state dicts to ``score``.
        integers : {"error", "first", "max"}, default="error"
            How to merge integer tensors that differ, as in `average`.
        names : pair of str or None, default=None
            Names of the two checkpoints; None uses their paths, or "a" and "b".
        metric : str or None, default=None
            Name of the score; None uses the name of the function.
        lower_is_better : bool
            Whether the score is a loss or an error.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        InterpolationDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If the checkpoints cannot be averaged, or no score is finite.
        """
        import_pyplot()
        first, second = member_names([a, b], names)
        weights = line_weights(n)
        scores = score_points(
            [a, b], weights, score, estimator=estimator, integers=integers
        )
        display = cls(
            weights[:, 1],
            scores,
            names=(first, second),
            metric=score_name(score) if metric is None else metric,
            lower_is_better=lower_is_better,
        )
        return display.plot(ax)

    @property
    def line(self) -> Float64:
        """Linear interpolation of the scores of both checkpoints, at each point.

        NaN for points that are not between them, or if a checkpoint has no score.
        """
        ends = [self.scores[self.alphas == alpha] for alpha in (0, 1)]
        first, second = (end[0] if len(end) else np.nan for end in ends)
        is_between = (self.alphas >= 0) & (self.alphas <= 1)
        share = np.where(is_between, self.alphas, np.nan)
        return np.asarray((1 - share) * first + share * second)

    @property
    def excess(self) -> Float64:
        """How much worse each point scores than the line between both ends."""
        sign = 1 if self.lower_is_better else -1
        return np.asarray(sign * (self.scores - self.line))

    @property
    def barrier(self) -> float:
        """Height of the barrier: the largest excess; NaN if an end has no score."""
        excess = self.excess
        return float(np.nanmax(excess)) + 0.0 if np.isfinite(excess).any() else np.nan

    @property
    def best(self) -> int:
        """Index of the point with the best score."""
        sign = 1 if self.lower_is_better else -1
        return int(np.nanargmin(sign * self.scores))

    @property
    def summary(self) -> str:
        """One line with the barrier and the best point."""
        n_failed = int((~np.isfinite(self.scores)).sum())
        failed = f"; {n_failed} of {len(self.scores)} points without a score"
        barrier = (
            "barrier unknown: an end has no score"
            if np.isnan(self.barrier)
            else f"barrier {self.barrier:.3g}"
        )
        return (
            f"{barrier}; best {self.metric} {self.scores[self.best]:.4g} at alpha "
            f"{self.alphas[self.best]:.3g}{failed * (n_failed > 0)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "names": list(self.names),
            "metric": self.metric,
            "alphas": as_json(self.alphas),
            "scores": as_json(self.scores),
            "barrier": as_json(self.barrier),
            "best_alpha": float(self.alphas[self.best]),
        }

    def _draw(self, ax: Any) -> None:
        is_scored = np.isfinite(self.scores)
        ax.plot(self.alphas, self.scores, "o-", color=BLUE, markersize=4)
        line = self.line
        if np.isfinite(line).any():
            ax.plot(self.alphas, line, "--", color=GRAY, linewidth=1)
            if self.barrier > 0:
                self._draw_barrier(ax, int(np.nanargmax(self.excess)), line)
        ax.plot(
            self.alphas[self.best],
            self.scores[self.best],
            "*",
            color=GREEN,
            markersize=13,
            label=f"best, {self.scores[self.best]:.4g}",
        )
        mark_missing(ax, self.alphas[~is_scored])
        first, second = (shorten(name, 22) for name in self.names)
        ax.set_xlabel(f"alpha (0: {first}, 1: {second})")
        ax.set_ylabel(self.metric)
        ax.legend(frameon=False)
        clear_spines(ax)

    def _draw_barrier(self, ax: Any, top: int, line: Float64) -> None:
        """Draw the barrier as a vertical line between the curve and the chord."""
        ax.plot(
            [self.alphas[top]] * 2,
            [line[top], self.scores[top]],
            "-",
            color=VERMILLION,
            linewidth=2.5,
            label=f"barrier, {self.barrier:.3g}",
        )
