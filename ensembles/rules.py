"""Rules that turn a stack of members into one, in any wing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ensembles.blocks import cut
from ensembles.floats import Array, Float64
from ensembles.kernels.gram import widened
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.kernels.order import ranked, weighted_median
from ensembles.kernels.rounding import rounded
from ensembles.registry import Table, register
from ensembles.ruling import Rule
from ensembles.sphere import angles, centre

PIECE = 8_192  # elements of each member in float64 at a time: no budget counts them


def _counted(stack: Array, weights: Float64) -> tuple[Array, Float64]:
    """Members whose weight is not zero, and their weights."""
    some = weights != 0
    return (stack, weights) if some.all() else (stack[some], weights[some])


def _make(function: Callable[..., Any], facts: dict[str, Any]) -> Rule:
    return Rule(function, **facts)


RULES: Table[Rule] = Table("rule", _make)


@register(RULES, cut="element", signed=True, fused=True)
def mean(stack: Array, weights: Float64) -> Array:
    """Weighted mean, sum(w[i] x[i]) / sum(w[i]), rounded once.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", arXiv:2203.05482,
    section 2 (the uniform soup).
    """
    return weighted_mean(stack, weights)


@register(RULES, cut="element", fused=True)
def median(stack: Array, weights: Float64) -> Array:
    """Weighted median, the m of least sum(w[i] |x[i] - m|): half the weight each side.

    Where a value parts the weight into halves, up to the rounding of the weights, the
    mean of it and the next larger one; with equal weights, the usual median. Members
    whose weight is zero are left out.

    References
    ----------
    Edgeworth (1888), "On a new method of reducing observations relating to several
    quantities", Philosophical Magazine 25.
    """
    stack, weights = _counted(stack, weights)
    if (weights == weights[0]).all():
        low, high = (len(stack) - 1) // 2, len(stack) // 2
        return weighted_mean(ranked(stack, low, high), np.ones(high - low + 1))
    out = np.empty(stack.shape[1])
    for start, stop in cut(len(out), PIECE):
        piece = np.ascontiguousarray(widened(stack[:, start:stop]))
        weighted_median(piece, weights, out[start:stop])
    return rounded(out, stack.dtype)


@register(RULES, cut="element", fused=True)
def minimum(stack: Array, weights: Float64) -> Array:
    """Smallest entry, min(x[i] where w[i] is not 0).

    References
    ----------
    The power mean's limit for p towards minus infinity: Hardy, Littlewood & Pólya
    (1934), Inequalities, theorem 4.
    """
    counted, _ = _counted(stack, weights)
    return np.asarray(ranked(counted, 0, 0)[0])


@register(RULES, cut="element", fused=True)
def maximum(stack: Array, weights: Float64) -> Array:
    """Largest entry, max(x[i] where w[i] is not 0).

    References
    ----------
    The power mean's limit for p towards infinity: Hardy, Littlewood & Pólya (1934),
    Inequalities, theorem 4.
    """
    counted, _ = _counted(stack, weights)
    return np.asarray(ranked(counted, len(counted) - 1, len(counted) - 1)[0])


@register(RULES, cut="gram", n_members=2)
def slerp(gram: Float64, weights: Float64) -> Float64:
    """Spherical interpolation, (sin((1-t)θ) a + sin(tθ) b) / sin θ, t = w[1] / sum(w).

    θ is the angle between the two members. Where they point the same way the limit
    for θ towards zero is the straight line between them; it is also taken where a
    member is zero or both are opposite, as no single arc joins those.

    There is no threshold on the angle: with inner products in float64 the formula is
    as exact near zero as elsewhere.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH, section
    3.3.
    """
    t = weights[1] / weights.sum()
    angle = angles(gram)[0, 1]
    if math.sin(angle) == 0 or angle > math.pi - 1e-7:
        return np.array([1 - t, t])
    arc = np.array([math.sin((1 - t) * angle), math.sin(t * angle)])
    return np.asarray(arc / math.sin(angle))


@register(RULES, cut="gram")
def karcher_mean(gram: Float64, weights: Float64) -> Float64:
    """Mean direction m of least sum(w[i] angle(m, x[i])²), of the weighted mean length.

    The point from which the weighted sum of squared angles to the members is
    smallest, found by steps along the mean of the logarithms. Members of length zero
    have no direction and count in the length alone.

    References
    ----------
    Karcher (1977), "Riemannian center of mass and mollifier smoothing",
    Communications on Pure and Applied Mathematics 30; for checkpoints
    arXiv:2603.04972.
    """
    share = weights / weights.sum()
    lengths = np.sqrt(np.diagonal(gram))
    some = (lengths != 0) & (share > 0)
    if not some.any():
        return np.asarray(share)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=some)
    cosines = gram * inverse[:, None] * inverse
    point = centre(cosines, np.where(some, share, 0.0))
    return np.asarray(point * inverse * (share @ lengths))
