"""Display of the coverage of prediction intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles.predictions.forecasts.quantiles import check_levels
from ensembles.predictions.forecasts.scores import TOLERANCE, interval_coverage
from ensembles.reports.displays.display import Display
from ensembles.reports.displays.figures import import_pyplot, member_names
from ensembles.reports.displays.predictions.calibration_curve import (
    CalibrationCurve,
    curves_as_json,
    draw_curves,
    list_errors,
)
from ensembles.reports.displays.predictions.forecast_quantiles import predict_quantiles


def coverage_curve(
    y_true: ArrayLike, quantiles: ArrayLike, levels: ArrayLike
) -> CalibrationCurve:
    """Nominal and observed coverage of the central intervals between the levels.

    Parameters
    ----------
    y_true : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    quantiles : array-like of shape (n_units, n_levels)
        Quantile forecasts; NaN at all levels where a forecast is absent.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order. Each pair that is symmetric around 0.5 is an
        interval.

    Returns
    -------
    CalibrationCurve
        From the narrowest interval to the widest.

    Raises
    ------
    ValueError
        If no levels are symmetric, quantiles cross, or no forecast has an outcome.

    Examples
    --------
    >>> curve = coverage_curve([1, 9], [[0, 5, 8], [0, 5, 8]], [0.1, 0.5, 0.9])
    >>> curve.predicted, curve.observed, curve.counts
    (array([0.8]), array([0.5]), array([2]))
    """
    checked = check_levels(levels)
    coverages = [
        1 - 2 * level
        for level in checked[checked < 0.5 - TOLERANCE]
        if np.abs(checked - (1 - level)).min() < TOLERANCE
    ]
    if not coverages:
        raise ValueError(
            "levels must have a pair that is symmetric around 0.5, such as 0.25 and "
            f"0.75: found {checked.tolist()}"
        )
    inside = np.array(
        [
            interval_coverage(y_true, quantiles, checked, coverage=coverage)
            for coverage in coverages[::-1]
        ]
    )
    counts = np.isfinite(inside).sum(axis=1)
    if not counts.all():
        raise ValueError("no forecast has an outcome, so there is no coverage to draw")
    return CalibrationCurve(
        np.round(coverages[::-1], 9), np.nanmean(inside, axis=1), counts
    )


class CoverageDisplay(Display):
    """Observed against nominal coverage of central prediction intervals.

    Calibrated forecasts are on the diagonal; below it the intervals are too narrow. The
    95 % intervals of the ensemble's coverage assume that the units are independent;
    forecasts of neighboring times or places are not, so that they are too short then.

    Parameters
    ----------
    curve : CalibrationCurve
        Nominal coverage, observed coverage, and number of forecasts of the ensemble.
    members : mapping of str to CalibrationCurve or None, default=None
        The same of the members by their names; None draws none.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Examples
    --------
    >>> curve = coverage_curve([1, 9], [[0, 5, 8], [0, 5, 8]], [0.1, 0.5, 0.9])
    >>> CoverageDisplay(curve).summary
    'coverage of 2 forecasts: 50 % of 80 % intervals; mean error 0.3'
    """

    def __init__(
        self,
        curve: CalibrationCurve,
        *,
        members: Mapping[str, CalibrationCurve] | None = None,
    ) -> None:
        self.curve = curve
        self.members = dict(members or {})

    @classmethod
    def from_estimator(
        cls,
        ensemble: Any,
        X: Any,
        y: ArrayLike,
        *,
        levels: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        ax: Any = None,
    ) -> Self:
        """Predict quantiles with a fitted ensemble and its members, and draw them.

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
        names : sequence of str or None, default=None
            Names of the members; None uses those of the ensemble, or letters.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        CoverageDisplay

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
            y,
            predicted.combined,
            predicted.levels,
            members=predicted.members,
            names=predicted.names if names is None else names,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        quantiles: ArrayLike,
        levels: ArrayLike,
        *,
        members: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the coverage of quantile forecasts.

        Parameters
        ----------
        y_true : array-like of shape (n_units,)
            Outcomes; NaN if unknown.
        quantiles : array-like of shape (n_units, n_levels)
            Quantile forecasts of the ensemble; NaN where a forecast is absent.
        levels : array-like of shape (n_levels,)
            Quantile levels in ascending order.
        members : array-like of shape (n_members, n_units, n_levels) or None
            Quantile forecasts of the members; by default None, which draws none.
        names : sequence of str or None, default=None
            Names of the members; None uses letters.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        CoverageDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, quantiles cross, or no levels are symmetric.
        """
        import_pyplot()
        stack = [] if members is None else list(np.asarray(members, np.float64))
        curves = [coverage_curve(y_true, values, levels) for values in stack]
        named = dict(zip(member_names(stack, names), curves, strict=True))
        curve = coverage_curve(y_true, quantiles, levels)
        return cls(curve, members=named).plot(ax)

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return 6.8, 4.4

    @property
    def summary(self) -> str:
        """One line with the coverage of the widest interval, and the mean errors."""
        curve = self.curve
        text = f"coverage of {curve.counts.max()} forecasts: "
        text += f"{100 * curve.observed[-1]:.3g} % of "
        text += f"{100 * curve.predicted[-1]:.3g} % intervals"
        return f"{text}; mean error {curve.error:.3g}{list_errors(self.members)}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {"curves": curves_as_json(self.curve, self.members)}

    def _draw(self, ax: Any) -> None:
        draw_curves(ax, self.curve, self.members)
        ax.set(xlabel="nominal coverage", ylabel="observed coverage")
