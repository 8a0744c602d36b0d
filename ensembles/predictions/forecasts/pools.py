"""Pools of quantile forecasts: means and medians of quantiles, and mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import check_choice, warn_caller
from ensembles._typing import Array, Counts, Float64
from ensembles.kernels.sorting import weighted_median_reference
from ensembles.predictions.combiners.accumulation import row_blocks
from ensembles.predictions.forecasts.quantiles import (
    INTERPOLATIONS,
    Crossing,
    Interpolation,
    as_numbers,
    check_levels,
    check_quantiles,
    first_index,
    interpolate_levels,
)
from ensembles.registry import RegisteredFunction, Table, register
from ensembles.rules.numerics import sorted_trimmed_mean
from ensembles.weights import check_weights

SLACK = 1e-12  # cumulative probabilities that differ by less are equal
N_STEPS = 60  # at most, between two knots; rounding may prevent convergence


class Pool(RegisteredFunction):
    """A function that pools quantile forecasts unit by unit.

    A member that is absent from a unit, with NaN at all levels, is left out there, and
    the weights of the others are rescaled.

    Parameters
    ----------
    function : callable
        ``(stack, weights, levels, **params) -> quantiles`` with a stack of shape
        (n_members, n_units, n_levels) and weights of shape (n_members, n_units), not
        normalized. Members with weight 0 have infinite quantiles.
    check : callable (**params) or None, default=None
        Raises if a parameter is not valid; None if the function has none.
    """

    noun = "rule"
    n_inputs = 3

    def __init__(self, function: Any, *, check: Any = None) -> None:
        super().__init__(function)
        self.check = check

    def __call__(
        self,
        stack: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        levels: ArrayLike,
        crossing: Crossing = "raise",
        **params: Any,
    ) -> Float64:
        """Pool quantile forecasts.

        Parameters
        ----------
        stack : array-like of shape (n_members, n_units, n_levels)
            Quantiles of each member, in ascending order; NaN at all levels of the units
            from which the member is absent.
        weights : array-like of shape (n_members,) or (n_members, n_units), or None
            Non-negative weights of the members, for all units or for each; None weights
            all members equally. In a unit where all members that are present have the
            weight 0, they count equally.
        levels : array-like of shape (n_levels,)
            Quantile levels in ascending order.
        crossing : {"raise", "sort"}, default="raise"
            If quantiles of a member decrease from one level to the next: raise, or sort
            them.
        **params
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (n_units, n_levels), float64
            Quantiles of the pool, in ascending order.

        Raises
        ------
        ValueError, TypeError
            If the stack, the weights, the levels or a parameter are not valid, or no
            member is present in a unit.

        Warns
        -----
        UserWarning
            If all members that are present in a unit have the weight 0.
        """
        self.check_params(params)
        levels = check_levels(levels)
        stack = check_quantiles(stack, levels, crossing=crossing)
        if stack.ndim != 3:
            raise ValueError(
                "stack must have the shape (n_members, n_units, n_levels), found "
                f"{stack.shape}"
            )
        weights = unit_weights(weights, ~np.isnan(stack[..., 0]))
        return self.pool(stack, weights, levels, params)

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raise if a parameter is unknown or not valid.

        Parameters
        ----------
        params : mapping of str to value
            Parameters of the rule; the others have their defaults.
        """
        self.check_names(params)
        if self.check is not None:
            self.check(**{**self.params, **params})

    def pool(
        self,
        stack: Float64,
        weights: Float64,
        levels: Float64,
        params: Mapping[str, Any],
    ) -> Float64:
        """Pool validated forecasts in blocks of units.

        Parameters
        ----------
        stack : ndarray of shape (n_members, n_units, n_levels)
            Quantiles of the members.
        weights : ndarray of shape (n_members, n_units)
            Weights from `unit_weights`.
        levels : ndarray of shape (n_levels,)
            Quantile levels.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (n_units, n_levels)
        """
        n_members, n_units, n_levels = stack.shape
        out: Float64 = np.empty((n_units, n_levels))
        for rows in row_blocks(n_units, n_members * n_levels):
            part = weights[:, rows]
            block = np.where(part[..., None] > 0, stack[:, rows], np.inf)
            out[rows] = self.function(block, part, levels, **params)
        return out


POOLS: Table[Pool] = Table("rule", Pool)


def unit_weights(weights: ArrayLike | None, is_present: Array) -> Float64:
    """Weights of the members in each unit.

    Parameters
    ----------
    weights : array-like of shape (n_members,) or (n_members, n_units), or None
        Non-negative weights of the members; None weights all members equally.
    is_present : ndarray of shape (n_members, n_units), bool
        Whether a member is present in a unit.

    Returns
    -------
    ndarray of shape (n_members, n_units)
        0 for members that are absent. Equal for all members of a unit that have only
        the weight 0 otherwise.

    Raises
    ------
    ValueError, TypeError
        If weights are not valid, or a unit has no member.

    Warns
    -----
    UserWarning
        If all members that are present in a unit have the weight 0.
    """
    is_empty = np.asarray(~is_present.any(0))
    if is_empty.any():
        raise ValueError(
            "each unit must have at least one member that is present: unit "
            f"{first_index(is_empty)[0]} has none ({is_empty.sum()} of "
            f"{len(is_empty)} units); leave these units out"
        )
    if weights is None or np.ndim(weights) < 2:
        per_unit = check_weights(weights, len(is_present))[:, None]
    else:
        per_unit = as_numbers("weights", weights)
        if per_unit.shape != is_present.shape:
            raise ValueError(
                "weights must have the shape (n_members,) or (n_members, n_units), "
                f"here {is_present.shape}: found {per_unit.shape}"
            )
        is_invalid = ~(per_unit >= 0)
        if is_invalid.any():
            where = first_index(is_invalid)
            raise ValueError(
                f"weights must not be negative or NaN: weights{list(where)} is "
                f"{per_unit[where]}"
            )
    counted = np.where(is_present, per_unit, 0.0)
    is_unweighted = np.asarray(~counted.any(0))
    if is_unweighted.any():
        warn_caller(
            f"{is_unweighted.sum()} of {len(is_unweighted)} units have only members "
            "with weight 0, which count equally there: the first is unit "
            f"{first_index(is_unweighted)[0]}"
        )
        counted[:, is_unweighted] = is_present[:, is_unweighted]
    return counted


@register(POOLS)
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


def _check_linear_pool(*, interpolation: Any) -> None:
    check_choice("interpolation", interpolation, INTERPOLATIONS)


@register(POOLS, check=_check_linear_pool)
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
    n_members, n_units, n_levels = mixture.stack.shape
    is_absent = np.repeat(mixture.shares.T == 0, n_levels, axis=1)
    knots = mixture.stack.transpose(1, 0, 2).reshape(n_units, -1)
    knots = np.where(is_absent, np.inf, knots)
    order = np.argsort(knots, axis=1, kind="stable")
    knots = np.take_along_axis(knots, order, 1)
    last = (~is_absent).sum(axis=1, keepdims=True) - 1
    knots = np.minimum(knots, np.take_along_axis(knots, last, 1))
    counts = [
        np.cumsum(order // n_levels == index, axis=1) for index in range(n_members)
    ]
    values = mixture.probability(knots, counts)
    index = (values[:, :, None] < mixture.levels - SLACK).sum(axis=1)
    index = np.minimum(index, last)
    before = np.maximum(index - 1, 0)
    return (
        np.take_along_axis(knots, before, 1),
        np.take_along_axis(knots, index, 1),
        [np.take_along_axis(count, before, 1) for count in counts],
    )
