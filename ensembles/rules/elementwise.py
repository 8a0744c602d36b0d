"""Elementwise rules: means, medians, minimum and maximum over members."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.casting import narrow, widen
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.kernels.pairs import moved_towards
from ensembles.kernels.sorting import order_statistics, weighted_median
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.numerics import (
    log_domain_mean,
    power_transforms,
    sorted_trimmed_mean,
    trimmed_weights,
)
from ensembles.rules.table import RULES

PIECE_SIZE = 8_192  # elements per member in float64, beside the memory budget


def _nonzero_weighted(stack: Array, weights: Float64) -> tuple[Array, Float64]:
    """Members with nonzero weight, and their weights."""
    is_counted = weights != 0
    if is_counted.all():
        return stack, weights
    return stack[is_counted], weights[is_counted]


def _map_pieces(stack: Array, combine: Callable[[Float64], Float64]) -> Array:
    """Apply a function to float64 members piece by piece; round the result once."""
    out = np.empty(stack.shape[1])
    with np.errstate(all="ignore"):  # NaN, infinity and zero pass through
        for start, stop in chunks(len(out), PIECE_SIZE):
            piece = np.ascontiguousarray(widen(stack[:, start:stop]))
            out[start:stop] = combine(piece)
    return narrow(out, stack.dtype)


@register(RULES, signed=True, fused=True)
def mean(stack: Array, weights: Float64) -> Array:
    """Weighted mean, sum(w[i] x[i]) / sum(w[i]), rounded once.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Weight of each member, of any sign.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", arXiv:2203.05482,
    section 2 (the uniform soup).
    """
    return weighted_mean(stack, weights)


@register(RULES, signed=True, weight_sum_matters=True, fused=True)
def linear_combination(
    stack: Array, weights: Float64, *, scale: float = 1.0, normalize: bool = False
) -> Array:
    """Scaled sum, scale * sum(w[i] x[i]), rounded once.

    Unlike the mean it is not divided by the sum of the weights.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Weight of each member, of any sign; they may sum to any number.
    scale : float, default=1.0
        Factor of the sum, of any sign; 0 gives zeros.
    normalize : bool, default=False
        Whether the sum is divided by the sum of the weights.

    Raises
    ------
    ValueError
        If ``scale`` is not a finite number, ``normalize`` is not a boolean, or the
        weights sum to zero with ``normalize=True``.

    Notes
    -----
    In mergekit 0.1.5 it is the method ``linear`` with ``normalize: false``, and
    ``passthrough`` with ``scale``.
    """
    if not (isinstance(scale, Real) and math.isfinite(scale)):
        raise ValueError(
            f"scale of 'linear_combination' must be a finite number, found {scale!r}"
        )
    if normalize not in (False, True):
        raise ValueError(
            "normalize of 'linear_combination' must be True or False, found "
            f"{normalize!r}"
        )
    total = math.fsum(weights) if normalize else 1.0
    if total == 0:
        raise ValueError(
            "weights of 'linear_combination' must not sum to zero with normalize=True"
        )
    if scale == 1:
        return weighted_mean(stack, weights, total)
    return weighted_mean(stack, weights * float(scale), total)


@register(RULES, fused=True)
def median(stack: Array, weights: Float64) -> Array:
    """Weighted median, the m that minimizes sum(w[i] |x[i] - m|).

    If a value splits the weight into two halves, up to the rounding of the weights, the
    result is the mean of this value and the next larger one; equal weights give the
    usual median. Members with zero weight are ignored.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.

    References
    ----------
    Edgeworth (1888), "On a new method of reducing observations relating to several
    quantities", Philosophical Magazine 25.
    """
    stack, weights = _nonzero_weighted(stack, weights)
    if (weights == weights[0]).all():
        low, high = (len(stack) - 1) // 2, len(stack) // 2
        return weighted_mean(
            order_statistics(stack, low, high), np.ones(high - low + 1)
        )

    def combine(piece: Float64) -> Float64:
        medians = np.empty(piece.shape[1])
        weighted_median(piece, weights, medians)
        return medians

    return _map_pieces(stack, combine)


@register(RULES, fused=True)
def trimmed_mean(stack: Array, weights: Float64, *, proportion: float = 0.2) -> Array:
    """Weighted mean after trimming ``proportion`` of the weight at both ends.

    The mean of the quantile function between ``proportion`` and 1 - ``proportion``: a
    member at a cut counts with its remaining weight, so that also few members and
    members of unequal weight are trimmed by exactly ``proportion``. 0 is the mean;
    towards 0.5 the result approaches the median. If whole members of equal weight are
    trimmed, it equals `scipy.stats.trim_mean`. Members with zero weight are ignored.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.
    proportion : float in [0, 0.5), default=0.2
        Share of the total weight to trim at each end. For 5 members of equal weight,
        0.2 trims the largest and the smallest.

    Raises
    ------
    ValueError
        If ``proportion`` is not a number in [0, 0.5).

    References
    ----------
    Stigler (1973), "The asymptotic distribution of the trimmed mean", Annals of
    Statistics 1; among models, with whole members, Yin et al. (2018),
    "Byzantine-robust distributed learning: towards optimal statistical rates",
    arXiv:1803.01498, definition 2. The default follows Wilcox (2012), Introduction to
    robust estimation and hypothesis testing.
    """
    if not (isinstance(proportion, Real) and 0 <= proportion < 0.5):
        raise ValueError(
            "proportion of 'trimmed_mean' must be a number from 0 to below 0.5, found "
            f"{proportion!r}; for 0.5, use rule 'median'"
        )
    stack, weights = _nonzero_weighted(stack, weights)
    if (weights == weights[0]).all():
        ends = np.arange(1.0, len(stack) + 1)
        kept = trimmed_weights(ends, np.ones(len(stack)), proportion)
        low, high = np.flatnonzero(kept)[[0, -1]].tolist()
        return weighted_mean(order_statistics(stack, low, high), kept[low : high + 1])
    # Ordered by weight, so that ties do not depend on the order of the members.
    order = np.argsort(weights, kind="stable")
    weights = weights[order]
    return _map_pieces(
        stack, lambda piece: sorted_trimmed_mean(piece[order], weights, proportion)
    )


@register(RULES, domain="non-negative", fused=True)
def geometric_mean(stack: Array, weights: Float64) -> Array:
    """Weighted geometric mean of entries >= 0, prod(x[i] ** (w[i] / sum(w))).

    Computed from logarithms, so that intermediate values neither overflow nor underflow
    float64: the error is a few units in the last place for entries of similar
    magnitude, and some thousand if their exponents differ by hundreds. Identical
    members are reproduced bit for bit. A zero makes the result zero, an infinity makes
    it infinite, and both together make it NaN. Members with zero weight are ignored.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0, with non-negative entries.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.

    References
    ----------
    Limit of the power mean for p towards 0: Hardy, Littlewood & Pólya (1934),
    Inequalities, theorem 3.
    """
    stack, weights = _nonzero_weighted(stack, weights)

    def combine(piece: Float64) -> Float64:
        largest = piece.max(axis=0)
        means = log_domain_mean(
            piece, weights, largest, up=np.positive, down=np.positive
        )
        is_undefined = (largest == np.inf) & (piece.min(axis=0) == 0)
        return np.where(is_undefined, np.nan, means)

    return _map_pieces(stack, combine)


@register(RULES, domain="non-negative", fused=True)
def power_mean(stack: Array, weights: Float64, *, p: float = 2.0) -> Array:
    """Weighted power mean of entries >= 0, (sum(w[i] x[i]**p) / sum(w)) ** (1 / p).

    Computed relative to the largest entry, or the smallest for negative ``p``, so that
    powers neither overflow nor underflow float64: the error is a few units in the last
    place for entries of similar magnitude, and some ten thousand for ``p`` near 0 if
    their exponents differ by hundreds. For negative ``p`` a zero entry makes the result
    zero, the limit. Members with zero weight are ignored.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0, with non-negative entries.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.
    p : float, not 0, default=2.0
        Exponent. 1 is the arithmetic mean, -1 the harmonic mean, 2 the root mean
        square; larger values lean to the largest member.

    Raises
    ------
    ValueError
        If ``p`` is 0 or not a finite number.

    References
    ----------
    Hardy, Littlewood & Pólya (1934), Inequalities, chapter 2; for word vectors Rücklé
    et al. (2018), "Concatenated power mean word embeddings as universal cross-lingual
    sentence representations", arXiv:1803.01400.
    """
    if not (isinstance(p, Real) and math.isfinite(p) and p != 0):
        raise ValueError(
            f"p of 'power_mean' must be a finite number, and not 0, found {p!r}; rules "
            "'geometric_mean', 'maximum' and 'minimum' are the limits"
        )
    stack, weights = _nonzero_weighted(stack, weights)
    up, down = power_transforms(float(p))

    def combine(piece: Float64) -> Float64:
        anchor = piece.max(axis=0) if p > 0 else piece.min(axis=0)
        return log_domain_mean(piece, weights, anchor, up=up, down=down)

    return _map_pieces(stack, combine)


@register(RULES, fused=True)
def minimum(stack: Array, weights: Float64) -> Array:
    """Smallest entry, min(x[i] where w[i] is not 0).

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weights; members with zero weight are ignored.

    References
    ----------
    Limit of the power mean for p towards minus infinity: Hardy, Littlewood & Pólya
    (1934), Inequalities, theorem 4.
    """
    counted, _ = _nonzero_weighted(stack, weights)
    return np.asarray(order_statistics(counted, 0, 0)[0])


@register(RULES, fused=True)
def maximum(stack: Array, weights: Float64) -> Array:
    """Largest entry, max(x[i] where w[i] is not 0).

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weights; members with zero weight are ignored.

    References
    ----------
    Limit of the power mean for p towards infinity: Hardy, Littlewood & Pólya (1934),
    Inequalities, theorem 4.
    """
    counted, _ = _nonzero_weighted(stack, weights)
    return np.asarray(order_statistics(counted, len(counted) - 1, len(counted) - 1)[0])


@register(RULES, n_members=2, symmetric=False, weighted=False)
def nearswap(stack: Float64, weights: Float64, *, t: float = 1e-4) -> Float64:
    """First member, moved towards the second by at most t, a + clip(b - a, -t, t).

    Entries that differ by at most ``t`` become those of the second member, bit for bit.
    The members have no weights: ``t`` is the largest change of an entry of the first.

    Parameters
    ----------
    stack : array-like of shape (2, *shape)
        Members along axis 0: the one that is changed, then the one it is moved to.
    weights : array-like of shape (2,)
        Equal weights; if one is zero, the result is the other member.
    t : float, not negative, default=1e-4
        Largest change of an entry. 0 gives the first member.

    Raises
    ------
    ValueError
        If ``t`` is not a finite number, or negative.

    Notes
    -----
    mergekit 0.1.5 (its ``base_model`` is the first member here) has the same formula,
    a + min(t / |b - a|, 1) (b - a), with differences below 1e-6 counted as 1e-6: with a
    ``t`` below 1e-6 it leaves out parts of smaller differences. It computes in the
    format of the members, so that w b + (1 - w) a is not rounded once.

    References
    ----------
    alchemonaut (2024), "QuartetAnemoi-70B-t0.0001", Hugging Face, whose model card
    defines it; the default is that of its name.
    """
    if not (isinstance(t, Real) and 0 <= t < math.inf):
        raise ValueError(
            f"t of 'nearswap' must be a finite number, and not negative, found {t!r}"
        )
    if not weights.all():
        return np.asarray(stack[np.flatnonzero(weights)[0]])
    return moved_towards(stack, float(t))
