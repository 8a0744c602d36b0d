"""Curves of predicted probabilities and observed frequencies, and their drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.reports.displays.display import as_json
from ensembles.reports.displays.figures import (
    BLUE,
    CURVES,
    GRAY,
    clear_spines,
    shorten,
)

LEVEL = 0.95
ENSEMBLE = "ensemble"
LONGEST_NAME = 24  # characters of a member's name in the legend


class CalibrationCurve(NamedTuple):
    """Predicted probabilities and observed frequencies of events.

    Parameters
    ----------
    predicted : ndarray of shape (n_points,)
        Mean predicted probability of each bin of rows, or of each event.
    observed : ndarray of shape (n_points,)
        Share of the rows in which the event happened.
    counts : ndarray of shape (n_points,), int64
        Number of rows.
    """

    predicted: Float64
    observed: Float64
    counts: Counts

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of both, weighted by the counts."""
        distance = np.abs(self.predicted - self.observed)
        return float(np.average(distance, weights=self.counts))

    @property
    def interval(self) -> tuple[Float64, Float64]:
        """Jeffreys intervals of the frequencies, at the level 95 %."""
        from scipy.stats import beta

        events = self.observed * self.counts
        tail = (1 - LEVEL) / 2
        low = beta.ppf(tail, events + 0.5, self.counts - events + 0.5)
        high = beta.ppf(1 - tail, events + 0.5, self.counts - events + 0.5)
        low[self.observed == 0], high[self.observed == 1] = 0, 1
        return low, high


def list_errors(members: Mapping[str, CalibrationCurve]) -> str:
    """Calibration errors of the members, as the end of a summary.

    Parameters
    ----------
    members : mapping of str to CalibrationCurve
        Curves of the members by their names; the result is empty without any.

    Returns
    -------
    str
    """
    errors = [f"{name} {curve.error:.3g}" for name, curve in members.items()]
    return f"; members: {', '.join(errors)}" if errors else ""


def curves_as_json(
    curve: CalibrationCurve, members: Mapping[str, CalibrationCurve]
) -> list[dict[str, Any]]:
    """Numbers of the curves as JSON values, the ensemble first.

    Parameters
    ----------
    curve : CalibrationCurve
        Curve of the ensemble.
    members : mapping of str to CalibrationCurve
        Curves of the members by their names.

    Returns
    -------
    list of dict
    """
    return [
        {
            "name": name,
            "error": as_json(values.error),
            **{key: as_json(value) for key, value in values._asdict().items()},
        }
        for name, values in {ENSEMBLE: curve, **members}.items()
    ]


def draw_curves(
    ax: Any, curve: CalibrationCurve, members: Mapping[str, CalibrationCurve]
) -> None:
    """Draw the curve of an ensemble with intervals, and the curves of its members.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    curve : CalibrationCurve
        Curve of the ensemble.
    members : mapping of str to CalibrationCurve
        Curves of the members by their names.
    """
    ax.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="calibrated")
    colors = dict(zip(members, CURVES, strict=False))
    for name, points in members.items():
        ax.plot(
            points.predicted,
            points.observed,
            color=colors.get(name, GRAY),
            linewidth=1,
            label=f"{shorten(name, LONGEST_NAME)}, error {points.error:.3f}",
        )
    low, high = curve.interval
    ax.errorbar(
        curve.predicted,
        curve.observed,
        yerr=np.maximum([curve.observed - low, high - curve.observed], 0),
        fmt="o-",
        color=BLUE,
        markersize=4,
        capsize=2,
        label=f"{ENSEMBLE}, error {curve.error:.3f}",
    )
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    clear_spines(ax)
