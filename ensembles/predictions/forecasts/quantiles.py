"""Quantiles of forecasts: validation, and the distributions that they describe."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import check_choice
from ensembles._typing import Array, Counts, Float64

Interpolation = Literal["linear", "normal"]
Crossing = Literal["raise", "sort"]
INTERPOLATIONS = ("linear", "normal")
LARGEST = 1e300  # sums and differences of larger numbers overflow


def check_levels(levels: ArrayLike) -> Float64:
    """Validate quantile levels.

    Parameters
    ----------
    levels : array-like of shape (n_levels,)
        Levels in ascending order, each between 0 and 1.

    Returns
    -------
    ndarray of shape (n_levels,), float64

    Raises
    ------
    ValueError
        If a level is not between 0 and 1, or not larger than the one before it.
    """
    values = np.atleast_1d(np.asarray(levels, np.float64))
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"levels must be a flat list of numbers, found shape {values.shape}"
        )
    for index, level in enumerate(values.tolist()):
        if not 0 < level < 1:  # also refuses NaN
            raise ValueError(
                f"levels must be above 0 and below 1: levels[{index}] is {level}"
            )
        if index and level <= values[index - 1]:
            raise ValueError(
                f"levels must be in ascending order: levels[{index}] is {level}, after "
                f"{values[index - 1]}; sort them together with the quantiles"
            )
    return values


def check_quantiles(
    quantiles: ArrayLike, levels: Float64, *, crossing: Crossing = "raise"
) -> Float64:
    """Validate quantiles; some forecasts may be absent.

    Parameters
    ----------
    quantiles : array-like of shape (..., n_levels)
        Quantile of each level; NaN at all levels where a forecast is absent.
    levels : ndarray of shape (n_levels,)
        Validated levels.
    crossing : {"raise", "sort"}, default="raise"
        If quantiles decrease from one level to the next: raise, or sort them.

    Returns
    -------
    ndarray of shape (..., n_levels), float64
        A sorted copy with ``crossing="sort"``.

    Raises
    ------
    ValueError
        If the last axis is not that of the levels, an entry is infinite, a forecast
        lacks some of the levels only, or quantiles decrease.
    """
    check_choice("crossing", crossing, ("raise", "sort"))
    values = quantile_columns(quantiles, levels)
    missing = np.isnan(values)
    partly = missing.any(-1) & ~missing.all(-1)
    if partly.any():
        where = first_index(partly)
        lacking = levels[missing[where]]
        raise ValueError(
            "a forecast must have all levels, or NaN at all of them if it is absent: "
            f"quantiles{list(where)} lacks level {lacking[0]:g}"
        )
    if crossing == "sort":
        return np.sort(values, axis=-1)
    decreases = (np.diff(values, axis=-1) < 0).any(-1)
    if decreases.any():
        where = first_index(decreases)
        raise ValueError(
            f"quantiles must not cross: quantiles{list(where)} is "
            f"{values[where].tolist()!s:.100}, which decreases ({decreases.sum()} of "
            f"{decreases.size} forecasts do); pass crossing='sort' to sort them"
        )
    return values


def quantile_columns(quantiles: ArrayLike, levels: Float64) -> Float64:
    """Array of quantiles with one column for each level.

    Parameters
    ----------
    quantiles : array-like of shape (..., n_levels)
        Finite numbers, or NaN.
    levels : ndarray of shape (n_levels,)
        Quantile levels.

    Returns
    -------
    ndarray of shape (..., n_levels), float64

    Raises
    ------
    ValueError
        If the last axis is not that of the levels, or an entry is infinite.
    """
    values = as_numbers("quantiles", quantiles)
    if not values.ndim or values.shape[-1] != len(levels):
        raise ValueError(
            f"quantiles must have one column for each of {len(levels)} levels, found "
            f"shape {values.shape}"
        )
    return values


def check_outcomes(y: ArrayLike, forecasts: Float64) -> Float64:
    """Validate outcomes, one for each unit of the forecasts.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    forecasts : ndarray of shape (..., n_units, n_columns)
        Quantiles or samples.

    Returns
    -------
    ndarray of shape (n_units,), float64

    Raises
    ------
    ValueError
        If the numbers of units differ, or an outcome is infinite.
    """
    outcomes = as_numbers("y", y)
    if forecasts.ndim < 2 or outcomes.shape != forecasts.shape[-2:-1]:
        raise ValueError(
            "y must have one outcome for each unit: found shapes "
            f"{outcomes.shape} of y and {forecasts.shape} of the forecasts"
        )
    return outcomes


def as_numbers(name: str, values: ArrayLike) -> Float64:
    """Float64 array of finite numbers or NaN.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.
    values : array-like
        Numbers.

    Returns
    -------
    ndarray of the same shape, float64

    Raises
    ------
    TypeError
        If the entries are not real numbers.
    ValueError
        If an entry is infinite, or so large that sums overflow.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} must be real numbers, found {array.dtype} in {values!r:.80}"
        )
    numbers = array.astype(np.float64, copy=False)
    is_too_large = np.abs(numbers) > LARGEST
    if is_too_large.any():
        where = first_index(is_too_large)
        raise ValueError(
            f"{name} must be finite, or NaN where absent, and at most {LARGEST:g} in "
            f"absolute value: {name}{list(where)} is {numbers[where]}"
        )
    return numbers


def first_index(mask: Any) -> tuple[int, ...]:
    """Index of the first true entry.

    Parameters
    ----------
    mask : ndarray of bool
        Mask with at least one true entry.

    Returns
    -------
    tuple of int
    """
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def cumulative_probability(
    x: Float64,
    quantiles: Float64,
    levels: Float64,
    *,
    interpolation: Interpolation = "linear",
    right: bool = True,
) -> Float64:
    """Distribution functions of quantile forecasts.

    Equal quantiles of several levels are a point mass, where the function jumps.

    Parameters
    ----------
    x : ndarray of shape (n_units, n_points)
        Points at which the function of each unit is evaluated.
    quantiles : ndarray of shape (n_units, n_levels)
        Quantiles in ascending order, without NaN.
    levels : ndarray of shape (n_levels,)
        Their levels.
    interpolation : {"linear", "normal"}, default="linear"
        "linear" interpolates levels linearly, which is a uniform density between
        neighboring quantiles, and puts the mass beyond the outermost levels on the
        outermost quantiles. "normal" interpolates normal scores of the levels, which is
        a piecewise normal density, and continues it beyond the outermost quantiles.
    right : bool, default=True
        Whether the value at a jump is the upper one, P(X <= x); otherwise P(X < x).

    Returns
    -------
    ndarray of shape (n_units, n_points)
    """
    compare = np.less_equal if right else np.less
    count = compare(quantiles[:, None, :], x[:, :, None]).sum(-1)
    return interpolate_levels(x, quantiles, count, levels, interpolation)


def interpolate_levels(
    x: Float64,
    quantiles: Float64,
    count: Counts,
    levels: Float64,
    interpolation: Interpolation,
) -> Float64:
    """Distribution functions at points, from the quantiles around each point.

    Parameters
    ----------
    x : ndarray of shape (n_units, n_points)
        Points at which the function of each unit is evaluated.
    quantiles : ndarray of shape (n_units, n_levels)
        Quantiles in ascending order, without NaN.
    count : ndarray of shape (n_units, n_points), int
        Number of quantiles at or below each point.
    levels : ndarray of shape (n_levels,)
        Quantile levels.
    interpolation : {"linear", "normal"}
        As in `cumulative_probability`.

    Returns
    -------
    ndarray of shape (n_units, n_points)
    """
    n_levels = len(levels)
    if n_levels == 1:
        return np.where(count == 0, 0.0, 1.0)
    first = np.clip(count - 1, 0, n_levels - 2)
    start = np.take_along_axis(quantiles, first, 1)
    width = np.take_along_axis(quantiles, first + 1, 1) - start
    position = (x - start) / np.where(width > 0, width, 1.0)
    is_linear = interpolation == "linear"
    scores = levels if is_linear else _normal_scores(levels)
    score = scores[first] + position * np.diff(scores)[first]
    value = score if is_linear else _normal_probability(score)
    # Beyond the outermost quantiles; a density of width 0 has no tail.
    value = np.where((count == 0) & (is_linear | (width == 0)), 0.0, value)
    return np.where((count == n_levels) & (is_linear | (width == 0)), 1.0, value)


def sorted_knots(
    stack: Float64, is_present: Array, points: Float64 | None = None
) -> tuple[Float64, list[Counts]]:
    """Quantiles of all members in one order, with the counts of each member's.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_units, n_levels)
        Quantiles of the members.
    is_present : ndarray of shape (n_members, n_units), bool
        Members to count. The quantiles of the others are replaced by the largest knot.
    points : ndarray of shape (n_units,) or None, default=None
        Another knot of each unit; None adds none.

    Returns
    -------
    knots : ndarray of shape (n_units, n_knots)
        In ascending order.
    counts : list of n_members ndarrays of shape (n_units, n_knots)
        Number of each member's quantiles up to each knot. Among equal knots, all
        quantiles are counted at the last one.
    """
    n_members, n_units, n_levels = stack.shape
    filled = np.where(is_present[..., None], stack, np.inf)
    knots = filled.transpose(1, 0, 2).reshape(n_units, -1)
    if points is not None:
        knots = np.hstack([knots, points[:, None]])
    order = np.argsort(knots, axis=1, kind="stable")
    knots = np.take_along_axis(knots, order, 1)
    last = np.isfinite(knots).sum(axis=1, keepdims=True) - 1
    knots = np.minimum(knots, np.take_along_axis(knots, last, 1))
    owners = order // n_levels
    return knots, [np.cumsum(owners == member, axis=1) for member in range(n_members)]


def _normal_scores(levels: Float64) -> Any:
    from scipy.special import ndtri

    return ndtri(levels)


def _normal_probability(scores: Float64) -> Any:
    from scipy.special import ndtr

    return ndtr(scores)
