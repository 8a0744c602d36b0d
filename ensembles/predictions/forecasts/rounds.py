"""Forecasts in rounds: weights of a round, learned from earlier rounds alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import check_choice, check_mapping
from ensembles._typing import Array, Float64
from ensembles.predictions.forecasts.pool import check_present
from ensembles.predictions.forecasts.pools import POOLS
from ensembles.predictions.forecasts.quantiles import (
    Crossing,
    as_numbers,
    check_levels,
    check_quantiles,
    first_index,
)
from ensembles.predictions.forecasts.scores import pinball_loss
from ensembles.predictions.forecasts.skill import check_rounds, skill_weights
from ensembles.registry import lookup

SKILL_PARAMS = ("power", "prior", "half_life", "max_weight")


class RoundForecasts(NamedTuple):
    """Combined forecasts of all rounds, with the weights of each round.

    Parameters
    ----------
    quantiles : ndarray of shape (n_units, n_levels)
        Combined quantiles.
    rounds : ndarray of shape (n_rounds,)
        Rounds in ascending order.
    weights : ndarray of shape (n_rounds, n_members)
        Weights of each round, with sum 1; 0 for members that are absent from it.
    """

    quantiles: Float64
    rounds: Array
    weights: Float64


def combine_rounds(
    stack: ArrayLike,
    rounds: ArrayLike,
    truth: Callable[[Any], ArrayLike],
    *,
    levels: ArrayLike,
    rule: str | Sequence[str] = ("quantile_mean", "linear_pool"),
    rule_params: Mapping[str, Any] | None = None,
    weights: str | None = "skill",
    weights_params: Mapping[str, Any] | None = None,
    crossing: Crossing = "raise",
) -> RoundForecasts:
    """Combine the quantile forecasts of each round, with weights from earlier rounds.

    The weights of a round depend only on the forecasts of earlier rounds, and on
    outcomes as they were known when the round was due. Outcomes are revised: weights
    learned from final outcomes look better than the ones that can be had in time.

    Parameters
    ----------
    stack : array-like of shape (n_members, n_units, n_levels)
        Quantiles of each member, in ascending order; NaN at all levels of the units
        from which the member is absent.
    rounds : array-like of shape (n_units,)
        Round of each unit: a number or a date.
    truth : callable (round) -> array-like of shape (n_units,)
        Outcomes as they were known when the round was due; NaN for units whose outcome
        was unknown, which include all units of this round and of later ones.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order.
    rule : str or sequence of str, default=("quantile_mean", "linear_pool")
        Name of a rule in `POOLS`. With several names, the quantiles of their pools are
        averaged: the default is between the mean of quantiles, which is as sharp as
        the members, and the linear pool, which is wider than they are.
    rule_params : mapping or None, default=None
        Parameters of a single rule; None means its defaults.
    weights : {"skill"} or None, default="skill"
        "skill" learns the weights by `skill_weights`; None weights equally all members
        that are present in the round.
    weights_params : mapping or None, default=None
        Parameters of `skill_weights`; None means its defaults.
    crossing : {"raise", "sort"}, default="raise"
        If quantiles of a member decrease from one level to the next: raise, or sort
        them.

    Returns
    -------
    RoundForecasts

    Raises
    ------
    ValueError, TypeError
        If an input is not valid, a unit has no member, or ``truth`` returns the outcome
        of a unit whose round is not earlier.

    References
    ----------
    Taylor & Meng (2023), "Angular combining of forecasts of probability distributions",
    arXiv:2305.16735, which has a family of pools between the two of the default; here
    their quantiles are averaged instead.

    Examples
    --------
    Two members forecast two units in each of three rounds. The outcome of a unit is
    known in the next round.

    >>> rounds = np.repeat([1, 2, 3], 2)
    >>> y = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    >>> near, far = (y[:, None] + shift + [-1, 0, 1] for shift in (0.1, 3))
    >>> forecasts = combine_rounds(
    ...     [near, far],
    ...     rounds,
    ...     lambda now: np.where(rounds < now, y, np.nan),
    ...     levels=[0.25, 0.5, 0.75],
    ...     weights_params={"max_weight": 1.0},
    ... )
    >>> forecasts.weights.round(2).tolist()
    [[0.5, 0.5], [0.95, 0.05], [0.99, 0.01]]
    """
    check_choice("weights", weights, ("skill", None))
    pools = _check_rule(rule, check_mapping("rule_params", rule_params))
    weights_params = check_mapping("weights_params", weights_params)
    _check_weights_params(weights, weights_params)
    levels = check_levels(levels)
    quantiles = check_quantiles(stack, levels, crossing=crossing)
    if quantiles.ndim != 3:
        raise ValueError(
            "stack must have the shape (n_members, n_units, n_levels), found "
            f"{quantiles.shape}"
        )
    check_present(~np.isnan(quantiles[..., 0]))
    if not callable(truth):
        raise TypeError(
            "truth must be a function that returns the outcomes known at a round, such "
            "as lambda now: numpy.where(known_from < now, y, numpy.nan); found "
            f"{type(truth).__name__}"
        )
    rounds = check_rounds(rounds, quantiles.shape[1])
    labels = np.unique(rounds)
    combined = np.zeros(quantiles.shape[1:])
    round_weights = np.zeros((len(labels), len(quantiles)))
    for index, label in enumerate(labels):
        rows = rounds == label
        is_present = ~np.isnan(quantiles[:, rows, 0]).all(1)
        if weights is None:
            round_weights[index] = is_present / max(is_present.sum(), 1)
        else:
            losses = _known_losses(quantiles, levels, rounds, label, truth)
            round_weights[index] = skill_weights(
                losses, rounds, now=label, is_present=is_present, **weights_params
            )
        for pool in pools:
            pooled = pool(quantiles[:, rows], round_weights[index], levels=levels)
            combined[rows] += pooled / len(pools)
    return RoundForecasts(combined, labels, round_weights)


def _check_rule(
    rule: str | Sequence[str], rule_params: Mapping[str, Any]
) -> list[Callable[..., Float64]]:
    """Pools of one or several names, with the parameters of a single one."""
    names = [rule] if isinstance(rule, str) else list(rule)
    if not names or (rule_params and len(names) > 1):
        raise ValueError(
            "rule must be a name, or several without rule_params: found "
            f"rule={rule!r}, rule_params={dict(rule_params)}"
        )
    pools = [lookup(POOLS, name) for name in names]
    for pool in pools:
        pool.check_params(rule_params)
    return [partial(pool, **rule_params) for pool in pools]


def _check_weights_params(weights: str | None, params: Mapping[str, Any]) -> None:
    known = () if weights is None else SKILL_PARAMS
    for name in params:
        if name not in known:
            raise ValueError(
                f"weights_params of weights={weights!r} must be among "
                f"{', '.join(known) or 'none'}: found {name!r}"
            )


def _known_losses(
    quantiles: Float64,
    levels: Float64,
    rounds: Array,
    now: Any,
    truth: Callable[[Any], ArrayLike],
) -> Float64:
    """Mean pinball losses of members, NaN for units that are unknown at a round."""
    y = as_numbers("truth", truth(now))
    if y.shape != rounds.shape:
        raise ValueError(
            f"truth must return one value for each of {len(rounds)} units: found shape "
            f"{y.shape} for round {now}"
        )
    is_known = ~np.isnan(y)
    is_early = is_known & ~(rounds < now)
    if is_early.any():
        (where,) = first_index(is_early)
        raise ValueError(
            "truth must return NaN for units whose outcome is not known yet: for round "
            f"{now} it returns {y[where]} for unit {where} of round {rounds[where]}"
        )
    losses = np.full(quantiles.shape[:2], np.nan)
    losses[:, is_known] = pinball_loss(
        y[is_known], quantiles[:, is_known], levels
    ).mean(-1)
    return losses
