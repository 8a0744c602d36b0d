"""All built-in schedules, and the weights of a schedule by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Counts, Float64
from ensembles.checkpoints.runs.power_function import resolve_gamma
from ensembles.checkpoints.runs.schedules.table import SCHEDULES
from ensembles.registry import lookup, register
from ensembles.selection.table import check_integer, check_real

__all__ = ["SCHEDULES", "ema", "lawa", "power", "schedule_weights", "uniform", "wsm"]

# Learning rate after the share x of a decay, relative to the rate before it.
SHAPES: dict[str, Callable[[Float64], Float64]] = {
    "linear": lambda x: 1 - x,
    "minus_sqrt": lambda x: 1 - np.sqrt(x),
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
}


@register(SCHEDULES)
def uniform(positions: Float64, *, n: int | None = None) -> Float64:
    """Equal weights of the last n checkpoints, w[i] = 1 / n, 0 for the others.

    Parameters
    ----------
    positions : ndarray of shape (n_members,)
        Steps or tokens of the checkpoints, in increasing order.
    n : int from 1 to n_members, or None, default=None
        Number of checkpoints to average; None averages all.

    References
    ----------
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging",
    SIAM Journal on Control and Optimization 30; Li et al. (2025), "Model merging in
    pre-training of large language models", arXiv:2505.12082 (SMA).
    """
    return _equal(np.arange(len(positions)), n, "n")


@register(SCHEDULES)
def lawa(positions: Float64, *, k: int | None = None, interval: float = 0) -> Float64:
    """Equal weights of the last k checkpoints at an interval, w[i] = 1 / k or 0.

    Starts at the last checkpoint, and goes back to the nearest one that is at least
    ``interval`` earlier, and so on; the weights of the checkpoints between are 0.

    Parameters
    ----------
    positions : ndarray of shape (n_members,)
        Steps or tokens of the checkpoints, in increasing order.
    k : int, at least 1, or None, default=None
        Number of checkpoints to average; None averages all at this interval.
    interval : float, non-negative, default=0
        Smallest distance between two averaged checkpoints, in the unit of the
        positions; 0 skips no checkpoint.

    References
    ----------
    Kaddour (2022), "Stop wasting my time! Saving days of ImageNet and BERT training
    with latest weight averaging", arXiv:2209.14981; Sanyal et al. (2023), "Early weight
    averaging meets high learning rates for LLM pre-training", arXiv:2306.03241.
    """
    check_real(interval=interval)
    if not 0 <= interval < np.inf:
        raise ValueError(f"interval must not be negative, found {interval}")
    kept = [len(positions) - 1]
    for index in reversed(range(len(positions) - 1)):
        if positions[kept[0]] - positions[index] >= interval:
            kept.insert(0, index)
    return _equal(np.array(kept), k, "k")


@register(SCHEDULES)
def ema(
    positions: Float64,
    *,
    decay: float | None = None,
    half_life: float | None = None,
    per: str = "step",
) -> Float64:
    """Exponential moving average, w[i] = f(t[i]) - f(t[i-1]), f(t) = decay ** (T - t).

    T is the last position. Each checkpoint stands for the parameters since the previous
    one, the first for all earlier ones: it updates the average (EMA) with the decay
    ``decay ** (t[i] - t[i-1])``. Pass either ``decay`` or ``half_life``.

    Parameters
    ----------
    positions : ndarray of shape (n_members,)
        Steps or tokens of the checkpoints, in increasing order.
    decay : float between 0 and 1, or None, default=None
        Factor of the average in one update; None uses ``half_life``.
    half_life : float, positive, or None, default=None
        Distance over which the weight of old parameters is halved, in the unit of the
        positions; None uses ``decay``.
    per : {"step", "checkpoint"}, default="step"
        Unit of ``decay`` and ``half_life``: one step (or token, the unit of the
        positions), or the distance between two checkpoints, whatever it is.

    References
    ----------
    Tarvainen and Valpola (2017), "Mean teachers are better role models", NeurIPS,
    arXiv:1703.01780, for the average; Busbridge et al. (2023), "How to scale your EMA",
    NeurIPS, arXiv:2307.13813, for its decay over several steps.
    """
    if (decay is None) == (half_life is None):
        raise ValueError(
            "schedule 'ema' needs either decay or half_life, found "
            f"decay={decay} and half_life={half_life}; pass one of them, such as "
            "half_life=1000 (--schedule ema:half-life=1000)"
        )
    if per not in ("step", "checkpoint"):
        raise ValueError(f"per must be 'step' or 'checkpoint', found {per!r}")
    if per == "checkpoint":
        positions = np.arange(len(positions), dtype=np.float64)
    if half_life is None:
        check_real(decay=decay)
        if decay is None or not 0 < decay < 1:
            raise ValueError(f"decay must be between 0 and 1, found {decay}")
        rate = -np.log(decay)
    else:
        check_real(half_life=half_life)
        if not 0 < half_life < np.inf:
            raise ValueError(f"half_life must be positive, found {half_life}")
        rate = np.log(2) / half_life
    return _increments((positions - positions[-1]) * rate)


@register(SCHEDULES)
def power(
    positions: Float64, *, gamma: float | None = None, sigma_rel: float | None = None
) -> Float64:
    """Power function average, w[i] = f(t[i]) - f(t[i-1]), f(t) = (t / T)**(gamma + 1).

    T is the last position. The weight of the parameters at time t is proportional to
    ``t ** gamma``, so that the length of the average grows with the training time. Each
    checkpoint stands for the parameters since the previous one, the first for all
    earlier ones. Pass either ``gamma`` or ``sigma_rel``.

    Parameters
    ----------
    positions : ndarray of shape (n_members,)
        Steps or tokens since the beginning of the training, in increasing order.
    gamma : float, non-negative, or None, default=None
        Exponent; 0 gives equal weights to equal distances. None uses ``sigma_rel``.
    sigma_rel : float, positive, at most 1 / sqrt(12), or None, default=None
        Standard deviation of the weights, relative to the training time, such as 0.1;
        None uses ``gamma``.

    References
    ----------
    Karras et al. (2024), "Analyzing and improving the training dynamics of diffusion
    models", CVPR, arXiv:2312.02696, section 3.1 and appendix C.
    """
    exponent = resolve_gamma(gamma, sigma_rel)
    if positions[0] < 0 or positions[-1] <= 0:
        raise ValueError(
            "positions of schedule 'power' must count from the beginning of the "
            f"training, found {positions[0]:g} to {positions[-1]:g}"
        )
    with np.errstate(divide="ignore"):  # the weight at position 0 is 0
        return _increments((exponent + 1) * np.log(positions / positions[-1]))


@register(SCHEDULES)
def wsm(positions: Float64, *, shape: str = "linear") -> Float64:
    """Merge for a decay of the learning rate, w[i] = f(x[i]) - f(x[i+1]), its rates f.

    The merge equals the first checkpoint plus the updates after it, each multiplied by
    the relative learning rate at its end: f(x) for the share x of the decay, which
    begins at the first checkpoint and ends one mean distance after the last, where f is
    0. At equal distances, the linear shape gives equal weights.

    Parameters
    ----------
    positions : ndarray of shape (n_members,)
        Steps or tokens of the checkpoints, in increasing order.
    shape : {"linear", "minus_sqrt", "cosine"}, default="linear"
        Learning rate of the decay: 1 - x, 1 - sqrt(x), or (1 + cos(pi x)) / 2.

    References
    ----------
    Tian et al. (2025), "WSM: decay-free learning rate schedule via checkpoint merging
    for LLM pre-training", arXiv:2507.17634. At equal distances, the coefficients are
    those of ``tools/checkpoint/weighted_merge.py`` in Megatron-LM, which counts
    checkpoints instead of steps.
    """
    key = shape.replace("-", "_") if isinstance(shape, str) else shape
    if key not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, found {shape!r}")
    n_members = len(positions)
    if n_members == 1:
        return np.ones(1)
    elapsed = (positions - positions[0]) * (n_members - 1)
    rates = SHAPES[key](elapsed / ((positions[-1] - positions[0]) * n_members))
    return np.asarray(rates - np.append(rates[1:], 0.0))


def schedule_weights(
    positions: ArrayLike | Sequence[Decimal], schedule: str, **params: Any
) -> Float64:
    """Weights of the checkpoints of one training run, for `average`.

    Parameters
    ----------
    positions : array-like of shape (n_members,)
        Steps, epochs or tokens of the checkpoints, in increasing order.
    schedule : str
        Name of a schedule in `SCHEDULES`.
    **params
        Parameters of the schedule.

    Returns
    -------
    ndarray of shape (n_members,), float64
        Non-negative, with sum 1.

    Raises
    ------
    ValueError
        If the schedule or a parameter is unknown or invalid, or the positions are not
        finite numbers in increasing order.
    TypeError
        If a parameter has the wrong type.

    Examples
    --------
    >>> schedule_weights([1000, 2000, 3000], "ema", half_life=1000)
    array([0.25, 0.25, 0.5 ])
    """
    return lookup(SCHEDULES, schedule)(positions, **params)


def _equal(kept: Counts, number: int | None, name: str) -> Float64:
    """Equal weights of the last ``number`` of the kept checkpoints, or of all."""
    if number is not None:
        check_integer(**{name: number})
        if not 1 <= number <= len(kept):
            raise ValueError(
                f"{name} must be from 1 to the number of checkpoints, {len(kept)}, "
                f"found {number}"
            )
        kept = kept[-number:]
    weights = np.zeros(kept[-1] + 1)  # the last checkpoint is always kept
    weights[kept] = 1 / len(kept)
    return weights


def _increments(log_sums: Float64) -> Float64:
    """Weights from the logarithms of their cumulative sums, which end at 0."""
    weights = np.exp(log_sums)
    # The difference of two sums near 1 would lose digits.
    weights[1:] *= -np.expm1(log_sums[:-1] - log_sums[1:])
    return np.asarray(weights)
