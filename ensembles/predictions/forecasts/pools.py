"""Pools of quantile forecasts: means and medians of quantiles, and mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from ensembles._sklearn import check_choice
from ensembles._typing import Counts, Float64
from ensembles.kernels.jit import use_loops
from ensembles.kernels.sorting import weighted_median_reference
from ensembles.predictions.forecasts.pool import POOLS as POOLS
from ensembles.predictions.forecasts.pool_loops import mixture_quantiles
from ensembles.predictions.forecasts.quantiles import (
    INTERPOLATIONS,
    Interpolation,
    interpolate_levels,
    sorted_knots,
)
from ensembles.registry import register
from ensembles.rules.numerics import sorted_trimmed_mean

SLACK = 1e-12  # cumulative probabilities that differ by less are equal
COST = 128  # time of NumPy for an entry, in units of 5 ns
N_STEPS = 60  # at most, between two knots; rounding may prevent convergence


@register(POOLS, averages="quantiles")
def quantile_mean(stack: Float64, weights: Float64, levels: Float64) -> Float64:
    """Weighted mean of the quantiles of each level: Vincent averaging.

    Parameters
    ----------
    stack : array-like of shape (n_members, n_units, n_levels)
        Quantiles of the members.
    weights : array-like of shape (n_members,) or (n_members, n_units)
        Non-negative weights of the members.
    levels : array-like of shape (n_levels,)
        Quantile levels.

    References
    ----------
    Ratcliff (1979), "Group reaction time distributions and an analysis of distribution
    statistics", Psychological Bulletin 86. Lichtendahl, Grushka-Cockayne & Winkler
    (2013), "Is it better to average probabilities or quantiles?", Management Science
    59.
    """
    total = np.zeros(stack.shape[1:])
    finite = np.where(weights[..., None] > 0, stack, 0.0)
    for member, weight in zip(finite, weights[..., None], strict=True):
        total += weight * member
    # Divided once, at the end, so that equal members are a fixed point.
    return np.asarray(total / np.add.accumulate(weights, axis=0)[-1][:, None])


@register(POOLS)
def quantile_median(stack: Float64, weights: Float64, levels: Float64) -> Float64:
    """Weighted median of the quantiles of each level.

    Parameters
    ----------
    stack : array-like of shape (n_members, n_units, n_levels)
        Quantiles of the members.
    weights : array-like of shape (n_members,) or (n_members, n_units)
        Non-negative weights of the members.
    levels : array-like of shape (n_levels,)
        Quantile levels.

    References
    ----------
    Ray et al. (2023), "Comparing trained and untrained probabilistic ensemble forecasts
    of COVID-19 cases and deaths in the United States", International Journal of
    Forecasting 39.
    """
    flat, flat_weights = _flattened(stack, weights)
    return weighted_median_reference(flat, flat_weights).reshape(stack.shape[1:])


def _check_trimmed(*, proportion: float) -> None:
    if not (isinstance(proportion, Real) and 0 <= proportion < 0.5):
        raise ValueError(
            "proportion of 'quantile_trimmed_mean' must be a number from 0 to below "
            f"0.5, found {proportion!r}; for 0.5, use rule 'quantile_median'"
        )


@register(POOLS, check=_check_trimmed)
def quantile_trimmed_mean(
    stack: Float64, weights: Float64, levels: Float64, *, proportion: float = 0.2
) -> Float64:
    """Weighted mean of the quantiles of each level, after trimming both ends.

    Parameters
    ----------
    stack : array-like of shape (n_members, n_units, n_levels)
        Quantiles of the members.
    weights : array-like of shape (n_members,) or (n_members, n_units)
        Non-negative weights of the members.
    levels : array-like of shape (n_levels,)
        Quantile levels.
    proportion : float in [0, 0.5), default=0.2
        Share of the total weight to trim at each end, as in
        `ensembles.rules.trimmed_mean`.

    References
    ----------
    Jose, Grushka-Cockayne & Lichtendahl (2014), "Trimmed opinion pools and the crowd's
    calibration problem", Management Science 60, which trims distributions; here the
    quantiles of each level are trimmed.
    """
    flat, flat_weights = _flattened(stack, weights)
    trimmed = sorted_trimmed_mean(flat, flat_weights, proportion)
    return trimmed.reshape(stack.shape[1:])


def _flattened(stack: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """Stack of shape (n_members, n_units * n_levels), and weights of that shape."""
    per_level = np.repeat(weights, stack.shape[2], axis=1)
    return stack.reshape(len(stack), -1), per_level


def _check_linear_pool(*, interpolation: str) -> None:
    check_choice("interpolation", interpolation, INTERPOLATIONS)


@register(POOLS, check=_check_linear_pool, averages="probabilities")
def linear_pool(
    stack: Float64,
    weights: Float64,
    levels: Float64,
    *,
    interpolation: Interpolation = "linear",
) -> Float64:
    """Quantiles of the weighted mixture of the members' distributions.

    The quantile of a level is the smallest value at which the distribution function of
    the mixture reaches the level. It is exact, without sampling, and always between the
    smallest and the largest quantile of the members.

    Parameters
    ----------
    stack : array-like of shape (n_members, n_units, n_levels)
        Quantiles of the members.
    weights : array-like of shape (n_members,) or (n_members, n_units)
        Non-negative weights of the members.
    levels : array-like of shape (n_levels,)
        Quantile levels.
    interpolation : {"linear", "normal"}, default="linear"
        Distributions between and beyond the quantiles. "linear": a uniform density
        between neighboring quantiles, and the mass beyond the outermost levels on the
        outermost quantiles. "normal": a piecewise normal density, which continues
        beyond the outermost quantiles. Equal quantiles are a point mass in both.

    References
    ----------
    Stone (1961), "The opinion pool", Annals of Mathematical Statistics 32; tails from
    the two outermost quantiles as in Shandross et al. (2024), "hubEnsembles: Ensembling
    methods in R", medRxiv 2024.06.24.24309416, section 3.2.
    """
    shares = weights / weights.sum(0)
    stack = np.where(shares[..., None] > 0, stack, 0.0)
    if interpolation == "linear" and use_loops(COST * stack.size):
        out: Float64 = np.empty(stack.shape[1:])
        mixture_quantiles(stack, shares, levels, SLACK, out)
        return out
    mixture = _Mixture(stack, shares, levels, interpolation)
    left, right, counts = _neighboring_knots(mixture)
    below, above = (mixture.excess(x, counts) for x in (left, right))
    # Otherwise the mixture reaches the level by a jump at the right knot.
    is_open = (above > SLACK) & (left < right)
    moved = np.zeros(left.shape)  # the end that moved in the last step, -1 or 1
    for _ in range(N_STEPS):
        share = -below / np.where(is_open, above - below, 1.0)
        point = np.where(is_open, left + share * (right - left), right)
        if interpolation == "linear":
            break
        excess = mixture.excess(point, counts)
        is_open &= np.abs(excess) > SLACK
        # An end that stays twice gets half of its excess (the Illinois method).
        side = np.sign(np.where(is_open, excess, 0.0))
        halved = np.where(side == moved, 0.5, 1.0)
        left, right = np.where(side < 0, point, left), np.where(side < 0, right, point)
        below = np.where(side < 0, excess, halved * below)
        above = np.where(side < 0, halved * above, excess)
        moved = side
        if not is_open.any():
            break
    return np.asarray(point)


class _Mixture(NamedTuple):
    """Weighted mixture of the distributions of quantile forecasts."""

    stack: Float64
    shares: Float64
    levels: Float64
    interpolation: Interpolation

    def probability(self, x: Float64, counts: Sequence[Counts]) -> Float64:
        """Distribution functions at points with ``counts`` quantiles of each member."""
        total = np.zeros(x.shape)
        for member, share, count in zip(self.stack, self.shares, counts, strict=True):
            total += share[:, None] * interpolate_levels(
                x, member, count, self.levels, self.interpolation
            )
        return total

    def excess(self, x: Float64, counts: Sequence[Counts]) -> Float64:
        """Distribution functions at one point for each level, minus the levels."""
        return self.probability(x, counts) - self.levels


def _neighboring_knots(mixture: _Mixture) -> tuple[Float64, Float64, list[Counts]]:
    """Quantiles of members between which the mixture reaches each level.

    The mixture reaches the level at the right one, and not at the left one. The third
    array is the number of each member's quantiles at or below the left one.
    """
    knots, counts = sorted_knots(mixture.stack, mixture.shares > 0)
    n_levels = len(mixture.levels)
    last = np.count_nonzero(mixture.shares, axis=0)[:, None] * n_levels - 1
    values = mixture.probability(knots, counts)
    index = (values[:, :, None] < mixture.levels - SLACK).sum(axis=1)
    index = np.minimum(index, last)
    before = np.maximum(index - 1, 0)
    return (
        np.take_along_axis(knots, before, 1),
        np.take_along_axis(knots, index, 1),
        [np.take_along_axis(count, before, 1) for count in counts],
    )
