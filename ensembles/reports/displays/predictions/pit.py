"""Display of the probability integral transform of forecasts."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.predictions.forecasts.quantiles import check_levels
from ensembles.predictions.forecasts.scores import pit_of_quantiles
from ensembles.reports.displays.display import Display, as_json
from ensembles.reports.displays.figures import (
    BLUE,
    GRAY,
    VERMILLION,
    clear_spines,
    import_pyplot,
)
from ensembles.reports.displays.predictions.forecast_quantiles import predict_quantiles

BAND = 0.95


class PITDisplay(Display):
    """Histogram of the probability integral transform of forecasts.

    The transform is the predictive distribution function at the outcome. It is uniform
    for calibrated forecasts; a histogram with high ends means that forecasts are too
    narrow, a hump that they are too wide, and a slope that they are biased.

    Parameters
    ----------
    edges : array-like of shape (n_bins + 1,)
        Edges of the bins, from 0 to 1.
    counts : array-like of shape (n_bins,)
        Number of outcomes in each bin.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If the shapes do not match, or there are no outcomes.

    References
    ----------
    Gneiting, Balabdaoui and Raftery (2007), "Probabilistic forecasts, calibration and
    sharpness", Journal of the Royal Statistical Society B 69.

    Examples
    --------
    >>> PITDisplay([0, 0.5, 1], [3, 1]).summary
    'PIT of 4 forecasts: density 1.5 in [0, 0.5] to 0.5 in [0.5, 1]'
    """

    def __init__(self, edges: ArrayLike, counts: ArrayLike) -> None:
        self.edges = np.asarray(edges, np.float64)
        self.counts = np.asarray(counts, np.int64)
        if self.edges.shape != (len(self.counts) + 1,):
            raise ValueError(
                f"edges must have one entry more than counts, found {len(self.edges)} "
                f"and {len(self.counts)}"
            )
        if not self.counts.sum():
            raise ValueError("no forecast has an outcome, so there is nothing to draw")

    @classmethod
    def from_estimator(
        cls,
        ensemble: Any,
        X: Any,
        y: ArrayLike,
        *,
        levels: ArrayLike | None = None,
        n_bins: int = 10,
        ax: Any = None,
    ) -> Self:
        """Predict quantiles with a fitted ensemble, and draw the histogram.

        Parameters
        ----------
        ensemble : QuantileEnsemble or EnsembleRegressor
            Fitted ensemble that predicts quantiles.
        X : array-like of shape (n_units, ...)
            Units that the ensemble was not fitted to.
        y : array-like of shape (n_units,)
            Outcomes; NaN if unknown.
        levels : array-like of shape (n_levels,) or None, default=None
            Quantile levels; None uses ``levels_`` of the ensemble.
        n_bins : int, default=10
            Number of bins, as in `from_predictions`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        PITDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the ensemble is not fitted.
        ValueError
            If the levels are unknown, or do not fit the predictions.
        """
        import_pyplot()
        predicted = predict_quantiles(ensemble, X, levels)
        return cls.from_predictions(
            y, predicted.combined, predicted.levels, n_bins=n_bins, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        quantiles: ArrayLike,
        levels: ArrayLike,
        *,
        n_bins: int = 10,
        ax: Any = None,
    ) -> Self:
        """Draw the histogram of quantile forecasts.

        Parameters
        ----------
        y_true : array-like of shape (n_units,)
            Outcomes; NaN if unknown.
        quantiles : array-like of shape (n_units, n_levels)
            Quantile forecasts; NaN at all levels where a forecast is absent.
        levels : array-like of shape (n_levels,)
            Quantile levels in ascending order.
        n_bins : int, default=10
            Number of bins. Their edges are levels, so that there are at most
            ``n_levels + 1``.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        PITDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, quantiles cross, or there are no outcomes.
        """
        import_pyplot()
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, found {n_bins}")
        edges = _edges(check_levels(levels), n_bins)
        values = pit_of_quantiles(y_true, quantiles, levels)
        return cls(edges, np.histogram(values[np.isfinite(values)], edges)[0]).plot(ax)

    @property
    def density(self) -> Float64:
        """Share of the outcomes in each bin, divided by its width."""
        return np.asarray(self.counts / self.counts.sum() / np.diff(self.edges))

    @property
    def band(self) -> tuple[Float64, Float64]:
        """Range of the densities of independent, calibrated forecasts, 95 % a bin."""
        from scipy.stats import binom

        total, width = self.counts.sum(), np.diff(self.edges)
        tail = (1 - BAND) / 2
        low, high = (binom.ppf(share, total, width) for share in (tail, 1 - tail))
        return low / total / width, high / total / width

    @property
    def summary(self) -> str:
        """One line with the highest and the lowest bin."""
        density = self.density
        named = [
            f"{density[n]:.3g} in [{self.edges[n]:g}, {self.edges[n + 1]:g}]"
            for n in (int(density.argmax()), int(density.argmin()))
        ]
        return f"PIT of {self.counts.sum()} forecasts: density {' to '.join(named)}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "edges": as_json(self.edges),
            "counts": as_json(self.counts),
            "density": as_json(self.density),
        }

    def _draw(self, ax: Any) -> None:
        widths = np.diff(self.edges)
        ax.bar(
            self.edges[:-1],
            self.density,
            widths,
            align="edge",
            color=BLUE,
            edgecolor="white",
        )
        low, high = self.band
        ax.bar(
            self.edges[:-1],
            high - low,
            widths,
            bottom=low,
            align="edge",
            color=GRAY,
            alpha=0.35,
            label="calibrated: 95 % of each bin",
        )
        ax.axhline(1, color=VERMILLION, linestyle="--", linewidth=1, label="uniform")
        ax.set(xlim=(0, 1), xlabel="distribution function at the outcome")
        ax.set_ylabel("density")
        ax.margins(y=0.25)
        ax.legend(frameon=False, loc="upper center", ncols=2)
        clear_spines(ax)


def _edges(levels: Float64, n_bins: int) -> Float64:
    """Edges of bins of about the same width, which are levels."""
    wanted = np.arange(1, n_bins) / n_bins
    nearest = np.abs(levels[:, None] - wanted).argmin(axis=0)
    return np.concatenate([[0.0], levels[np.unique(nearest)], [1.0]])
