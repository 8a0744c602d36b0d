"""Weights of members by their skill: losses in earlier rounds, relative to others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Array, Float64
from ensembles.predictions.forecasts.quantiles import as_numbers, first_index
from ensembles.selection.table import check_real

# Relative losses beyond it are noise: a forecast that fails once, or a loss of zero.
MAX_RATIO = 20.0


def skill_weights(
    losses: ArrayLike,
    rounds: ArrayLike,
    *,
    now: Any,
    is_present: ArrayLike | None = None,
    power: float = 8.0,
    prior: float = 4.0,
    half_life: float | None = 12.0,
    max_weight: float = 0.25,
) -> Float64:
    """Weights of members by their losses in earlier rounds, shrunk to equal weights.

    The relative loss of a member in a round is the sum of its losses, divided by the
    sum, over the same units, of the median loss of the members. The skill is the mean
    of its logarithm over rounds, and weights are proportional to ``exp(-power *
    skill)``. A member without losses has the skill 0, that of the median member.

    Parameters
    ----------
    losses : array-like of shape (n_members, n_units)
        Loss of each member in each unit, not negative; NaN where the member is absent
        or the outcome is unknown.
    rounds : array-like of shape (n_units,)
        Round of each unit: a number or a date. Losses of units whose round is not
        before ``now`` are ignored.
    now : number or date
        Round for which the weights are.
    is_present : array-like of shape (n_members,), bool, or None, default=None
        Members that forecast the round; the others have the weight 0. None means all.
    power : float >= 0, default=8
        How much weights follow the skill; 0 gives equal weights.
    prior : float >= 0, default=4
        Number of rounds with relative loss 1 that are added for each member. More
        rounds draw the weights to equal weights.
    half_life : float > 0 or None, default=12
        Age at which a round counts half, in rounds: the time since the round, divided
        by the median interval between rounds. None weights all rounds equally.
    max_weight : float in (0, 1], default=0.25
        Largest weight; twice the equal weight is always allowed, so that weights can
        differ with few members.

    Returns
    -------
    ndarray of shape (n_members,)
        Weights with sum 1.

    Raises
    ------
    ValueError, TypeError
        If an input is not valid, or no member is present.

    Notes
    -----
    A round also counts in proportion to the units that a member has in it, relative to
    the member with the most, so that a member with few units stays close to 0. Relative
    losses are limited to the range from 1/20 to 20. With ``prior=0``,
    ``half_life=None`` and one round, a weight is a power of the inverse loss.

    References
    ----------
    Bates & Granger (1969), "The combination of forecasts", Operational Research
    Quarterly 20; Ray et al. (2023), "Comparing trained and untrained probabilistic
    ensemble forecasts of COVID-19 cases and deaths in the United States", International
    Journal of Forecasting 39, section 2.3, for a softmax of relative scores.

    Examples
    --------
    >>> losses = [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]
    >>> skill_weights(losses, [1, 2], now=3, power=1, prior=0, max_weight=1).round(3)
    array([0.571, 0.286, 0.143])
    """
    _check_settings(power, prior, half_life, max_weight)
    values = as_numbers("losses", losses)
    if values.ndim != 2:
        raise ValueError(
            f"losses must have the shape (n_members, n_units), found {values.shape}"
        )
    if (values < 0).any():
        where = first_index(values < 0)
        raise ValueError(
            f"losses must not be negative: losses{list(where)} is {values[where]}"
        )
    rounds = check_rounds(rounds, values.shape[1])
    is_present = np.ones(len(values), bool) if is_present is None else is_present
    is_present = np.asarray(is_present, bool)
    if is_present.shape != (len(values),) or not is_present.any():
        raise ValueError(
            f"is_present must have one value for each of {len(values)} members, and at "
            f"least one of them must be True: found {is_present.tolist()}"
        )
    (now,) = check_rounds([now], 1)
    if now.dtype.kind != rounds.dtype.kind:
        raise TypeError(
            f"now must be of the kind of rounds, found {now!r} and {rounds.dtype}"
        )
    is_earlier = rounds < now
    skill = _skill(values[:, is_earlier], rounds[is_earlier], now, prior, half_life)
    weights = np.zeros(len(values))
    powers = np.exp(-power * (skill - skill[is_present].min()))[is_present]
    weights[is_present] = _limit(powers / powers.sum(), max_weight)
    return weights


def _skill(
    losses: Float64, rounds: Array, now: Any, prior: float, half_life: float | None
) -> Float64:
    """Mean logarithm of each member's relative loss, with the prior's rounds."""
    is_known = ~np.isnan(losses)
    some_known = is_known.any(0)
    losses, is_known = losses[:, some_known], is_known[:, some_known]
    labels, index = np.unique(rounds[some_known], return_inverse=True)
    medians = np.nanmedian(losses, axis=0) if losses.size else np.empty(0)
    totals, expected, n_units = (
        _sums(values, index, len(labels))
        for values in (
            np.where(is_known, losses, 0.0),
            np.where(is_known, medians, 0.0),
            is_known.astype(np.float64),
        )
    )
    # Members without a unit, and rounds in which nobody lost anything, are average.
    is_defined = (totals > 0) | (expected > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(is_defined, np.log(totals / expected), 0.0)
    relative = np.clip(relative, -np.log(MAX_RATIO), np.log(MAX_RATIO))
    counted = n_units / n_units.max(0, initial=1.0) * _decay(labels, now, half_life)
    evidence = counted.sum(1) + prior
    totals = (relative * counted).sum(1)
    return np.asarray(totals / np.where(evidence > 0, evidence, 1.0))


def _sums(values: Float64, index: Array, n_rounds: int) -> Float64:
    """Sums over the units of each round, of shape (n_members, n_rounds)."""
    return np.array([np.bincount(index, row, n_rounds) for row in values])


def _decay(labels: Array, now: Any, half_life: float | None) -> Float64:
    """Weight of each round by its age, in median intervals between rounds."""
    if half_life is None or not len(labels):
        return np.ones(len(labels))
    gaps = np.diff(np.append(labels, now))
    unit = np.sort(gaps)[len(gaps) // 2]
    return np.asarray(0.5 ** ((now - labels) / unit / half_life), np.float64)


def _limit(weights: Float64, max_weight: float) -> Float64:
    """Weights with sum 1, none above the maximum; the others grow in proportion."""
    maximum = min(max(max_weight, 2 / len(weights)), 1.0)
    order = np.argsort(-weights)
    ordered = weights[order]
    rest = np.cumsum(ordered[::-1])[::-1]
    for n_limited in range(len(weights)):
        scale = (1 - n_limited * maximum) / rest[n_limited]
        if ordered[n_limited] * scale <= maximum:
            ordered[n_limited:] *= scale
            break
        ordered[n_limited] = maximum
    limited = np.empty(len(weights))
    limited[order] = ordered
    return limited


def check_rounds(rounds: ArrayLike, n_units: int) -> Array:
    """Validate rounds of units.

    Parameters
    ----------
    rounds : array-like of shape (n_units,)
        Round of each unit: a number or a date.
    n_units : int
        Number of units.

    Returns
    -------
    ndarray of shape (n_units,), float64 or datetime64

    Raises
    ------
    ValueError, TypeError
        If the number of rounds is wrong, one is missing, or they are text.
    """
    values = np.asarray(rounds)
    if values.dtype == object:
        values = values.astype("datetime64[us]")
    if values.shape != (n_units,):
        raise ValueError(
            f"rounds must have one value for each of {n_units} units, found shape "
            f"{values.shape}"
        )
    if values.dtype.kind not in "iufM":
        raise TypeError(
            f"rounds must be numbers or dates, found dtype {values.dtype}; convert "
            "text, e.g. by numpy.array(rounds, 'datetime64[D]')"
        )
    is_missing = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
    if is_missing.any():
        raise ValueError(
            f"rounds must not be missing: unit {first_index(is_missing)[0]}"
        )
    return values if values.dtype.kind == "M" else values.astype(np.float64)


def _check_settings(power: Any, prior: Any, half_life: Any, max_weight: Any) -> None:
    """Raise if a parameter of `skill_weights` is not valid."""
    check_real(power=power, prior=prior, max_weight=max_weight)
    if half_life is not None:
        check_real(half_life=half_life)
        if not half_life > 0:
            raise ValueError(f"half_life must be above 0, found {half_life!r}")
    for name, value in (("power", power), ("prior", prior)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be a number of at least 0, found {value!r}")
    if not 0 < max_weight <= 1:
        raise ValueError(
            f"max_weight must be above 0 and at most 1, found {max_weight!r}"
        )
