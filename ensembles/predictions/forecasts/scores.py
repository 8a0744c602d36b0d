"""Scores of quantile forecasts: pinball loss, interval scores, coverage and PIT.

A score has one value for each unit, and less is better. It is NaN where the forecast is
absent or the outcome is unknown.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.predictions.forecasts.quantiles import (
    as_numbers,
    check_levels,
    check_outcomes,
    check_quantiles,
    cumulative_probability,
    first_index,
    quantile_columns,
)
from ensembles.selection.table import check_real

TOLERANCE = 1e-6  # levels that differ by less are equal: files store them in float32


def pinball_loss(y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike) -> Float64:
    """Pinball loss of each level, also named quantile loss.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    quantiles : array-like of shape (..., n_units, n_levels)
        Quantile forecasts, e.g. of several members along axis 0. They may cross.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order.

    Returns
    -------
    ndarray of shape (..., n_units, n_levels)

    References
    ----------
    Koenker & Bassett (1978), "Regression quantiles", Econometrica 46.

    Examples
    --------
    >>> pinball_loss([3.0], [[1.0, 2.0]], levels=[0.25, 0.5]).tolist()
    [[0.5, 0.5]]
    """
    levels = check_levels(levels)
    quantiles = quantile_columns(quantiles, levels)
    difference = check_outcomes(y, quantiles)[..., None] - quantiles
    return np.maximum(levels * difference, (levels - 1) * difference)


def weighted_interval_score(
    y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike
) -> Float64:
    """Weighted interval score (WIS): twice the mean pinball loss of the levels.

    With K central intervals and the median m, it is (|y - m| / 2 + the sum of alpha / 2
    times the interval score of each interval) / (K + 1/2); without the median the
    divisor is K. It approximates the CRPS, and more closely with more levels.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    quantiles : array-like of shape (..., n_units, n_levels)
        Quantile forecasts. They may cross.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order, symmetric around 0.5.

    Returns
    -------
    ndarray of shape (..., n_units)

    Raises
    ------
    ValueError
        If the levels are not symmetric.

    References
    ----------
    Bracher, Ray, Gneiting & Reich (2021), "Evaluating epidemic forecasts in an interval
    format", PLOS Computational Biology 17, equation 1.

    Examples
    --------
    >>> weighted_interval_score([22], [[-2, 0, 3, 3, 4]], [0.1, 0.25, 0.5, 0.75, 0.9])
    array([19.14])
    """
    levels = check_levels(levels)
    _check_symmetric(levels)
    return np.asarray(2 * pinball_loss(y, quantiles, levels).mean(-1))


class IntervalScoreParts(NamedTuple):
    """Parts of an interval score, which add up to it.

    Parameters
    ----------
    dispersion : ndarray of shape (..., n_units)
        Width of the intervals.
    overprediction : ndarray of shape (..., n_units)
        Penalty of outcomes below the intervals and the median.
    underprediction : ndarray of shape (..., n_units)
        Penalty of outcomes above the intervals and the median.
    """

    dispersion: Float64
    overprediction: Float64
    underprediction: Float64


def decompose_interval_score(
    y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike
) -> IntervalScoreParts:
    """Dispersion, overprediction and underprediction of the weighted interval score.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    quantiles : array-like of shape (..., n_units, n_levels)
        Quantile forecasts in ascending order.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order, symmetric around 0.5.

    Returns
    -------
    IntervalScoreParts
        Their sum is `weighted_interval_score`.

    Raises
    ------
    ValueError
        If the levels are not symmetric, or quantiles cross.

    References
    ----------
    Bracher, Ray, Gneiting & Reich (2021), "Evaluating epidemic forecasts in an interval
    format", PLOS Computational Biology 17, section 2.3.
    """
    levels = check_levels(levels)
    _check_symmetric(levels)
    quantiles = check_quantiles(quantiles, levels)
    outcomes = check_outcomes(y, quantiles)[..., None]
    # The width of an interval with the level alpha / 2 counts alpha / 2: each of its
    # two quantiles contributes its distance to the median times the smaller of its
    # level and 1 - level.
    signs = np.sign(np.round(levels - 0.5, 6))
    width = quantiles * signs * np.minimum(levels, 1 - levels)
    is_lower, is_upper = signs <= 0, signs >= 0
    share = np.where(signs == 0, 0.5, 1.0)
    over = np.maximum(quantiles - outcomes, 0.0) * (is_lower * share)
    under = np.maximum(outcomes - quantiles, 0.0) * (is_upper * share)
    scale = 2 / len(levels)
    absent = 0 * outcomes[..., 0]  # NaN for an unknown outcome
    parts = (width.sum(-1) + absent, over.sum(-1), under.sum(-1))
    return IntervalScoreParts(*(scale * part for part in parts))


def interval_score(
    y: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, coverage: float
) -> Float64:
    """Interval score of central prediction intervals, also named Winkler score.

    It is the width, plus 2 / alpha times the distance of an outcome outside of the
    interval, with alpha = 1 - coverage.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    lower, upper : array-like of shape (..., n_units)
        Ends of the intervals, the quantiles of the levels alpha / 2 and 1 - alpha / 2.
    coverage : float between 0 and 1
        Nominal coverage, such as 0.95.

    Returns
    -------
    ndarray of shape (..., n_units)

    Raises
    ------
    ValueError
        If a lower end is above the upper end, or ``coverage`` is not between 0 and 1.

    References
    ----------
    Gneiting & Raftery (2007), "Strictly proper scoring rules, prediction, and
    estimation", Journal of the American Statistical Association 102, equation 43.

    Examples
    --------
    >>> interval_score([1.0, 7.0], [0.0, 0.0], [2.0, 4.0], coverage=0.5).tolist()
    [2.0, 16.0]
    """
    alpha = 1 - _check_coverage(coverage)
    lower, upper = as_numbers("lower", lower), as_numbers("upper", upper)
    is_reversed = np.asarray(lower > upper)
    if is_reversed.any():
        where = first_index(is_reversed)
        raise ValueError(
            "lower must not be above upper: at "
            f"{list(where)} they are {lower[where]} and {upper[where]}"
        )
    y = check_outcomes(y, lower[..., None])
    outside = np.maximum(lower - y, 0.0) + np.maximum(y - upper, 0.0)
    return np.asarray(upper - lower + 2 / alpha * outside)


def interval_coverage(
    y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike, *, coverage: float
) -> Float64:
    """Whether a central prediction interval contains the outcome.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    quantiles : array-like of shape (..., n_units, n_levels)
        Quantile forecasts in ascending order.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order, with both ends of the interval.
    coverage : float between 0 and 1
        Nominal coverage: 0.95 is the interval between the levels 0.025 and 0.975.

    Returns
    -------
    ndarray of shape (..., n_units), float64
        1 if the outcome is in the interval or at its end, 0 if not, and NaN where the
        forecast is absent or the outcome unknown; `numpy.nanmean` of it is the observed
        coverage.

    Raises
    ------
    ValueError
        If a level of the interval is missing, or quantiles cross.
    """
    levels = check_levels(levels)
    _check_coverage(coverage)
    ends = []
    for level in ((1 - coverage) / 2, (1 + coverage) / 2):
        (matches,) = np.nonzero(np.abs(levels - level) < TOLERANCE)
        if not len(matches):
            raise ValueError(
                f"levels must have {level:.6g} for coverage={coverage:g}: found "
                f"{', '.join(f'{value:g}' for value in levels)}"
            )
        ends.append(matches[0])
    quantiles = check_quantiles(quantiles, levels)
    y = check_outcomes(y, quantiles)
    lower, upper = (quantiles[..., end] for end in ends)
    is_inside = (lower <= y) & (y <= upper)
    return np.where(np.isnan(lower) | np.isnan(y), np.nan, is_inside)


def pit_of_quantiles(y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike) -> Float64:
    """Probability integral transform (PIT) of quantile forecasts.

    The predictive distribution function at the outcome, linear between the levels. At a
    jump, where quantiles of several levels are equal, it is the middle of the jump. An
    outcome below the lowest quantile has the value 0, above the highest quantile 1. The
    values of calibrated forecasts are uniform between the outermost levels.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    quantiles : array-like of shape (..., n_units, n_levels)
        Quantile forecasts in ascending order.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order.

    Returns
    -------
    ndarray of shape (..., n_units)

    Raises
    ------
    ValueError
        If quantiles cross.

    References
    ----------
    Dawid (1984), "Statistical theory: the prequential approach", Journal of the Royal
    Statistical Society A 147.
    """
    levels = check_levels(levels)
    quantiles = check_quantiles(quantiles, levels)
    y = np.broadcast_to(check_outcomes(y, quantiles), quantiles.shape[:-1])
    flat, points = quantiles.reshape(-1, len(levels)), y.reshape(-1, 1)
    limits = [
        cumulative_probability(points, flat, levels, right=right)
        for right in (False, True)
    ]
    middle = ((limits[0] + limits[1]) / 2).reshape(y.shape)
    return np.where(np.isnan(quantiles[..., 0]) | np.isnan(y), np.nan, middle)


def _check_symmetric(levels: Float64) -> None:
    if np.abs(levels + levels[::-1] - 1).max() > TOLERANCE:
        raise ValueError(
            "levels must be symmetric around 0.5 for interval scores, found "
            f"{', '.join(f'{level:g}' for level in levels)}; use pinball_loss for "
            "other levels"
        )


def _check_coverage(coverage: float) -> float:
    check_real(coverage=coverage)
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be between 0 and 1, found {coverage!r}")
    return float(coverage)
