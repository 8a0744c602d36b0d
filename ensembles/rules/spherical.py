"""Rules over directions: coefficients of the members from their inner products."""

from __future__ import annotations

import math

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.gram import LEAST, MOST, gram
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.registry import register
from ensembles.rules.table import RULES


def angles(gram: Float64) -> Float64:
    """Angles between vectors: zero for vectors of length zero, NaN for endless ones.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        Their inner products.

    Returns
    -------
    ndarray of shape (n, n), from 0 to pi
    """
    lengths = np.sqrt(np.diagonal(gram))
    products = np.outer(lengths, lengths)
    with np.errstate(invalid="ignore"):  # a member holds an infinity
        cosines = np.divide(gram, products, out=np.ones_like(gram), where=products != 0)
    return np.asarray(np.arccos(np.clip(cosines, -1, 1)))


def centre(cosines: Float64, share: Float64) -> Float64:
    """Coefficients of the Karcher mean of unit vectors, itself of length one.

    Where the members cancel there is no centre, and the straight mean is returned.

    Parameters
    ----------
    cosines : ndarray of shape (n, n)
        Inner products of the unit vectors.
    share : ndarray of shape (n,), non-negative
        How much each counts.

    Returns
    -------
    ndarray of shape (n,)
    """
    share = share / share.sum()
    point = share
    for _ in range(200):
        length = _length(point, cosines)
        if length < 1e-7:
            return share
        point = point / length
        towards = np.clip(cosines @ point, -1, 1)
        angles, sines = np.arccos(towards), np.sqrt(1 - towards**2)
        pull = share * np.divide(
            angles, sines, out=np.ones_like(angles), where=sines > 1e-8
        )
        step = pull - (pull @ towards) * point
        size = _length(step, cosines)
        if size < 1e-14:
            break
        point = math.cos(size) * point + math.sin(size) / size * step
    return point


def _length(point: Float64, gram: Float64) -> float:
    return math.sqrt(max(float(point @ gram @ point), 0.0))


OPPOSITE = 1e-5  # angles this near to pi are lost in the rounding of inner products


def _slerp_coefficients(gram: Float64, weights: Float64) -> Float64:
    _check_squares(gram, "slerp")
    t = weights[1] / weights.sum()
    angle = angles(gram)[0, 1]
    if math.sin(angle) == 0 or angle > math.pi - OPPOSITE:
        return np.array([1 - t, t])
    arc = np.array([math.sin((1 - t) * angle), math.sin(t * angle)])
    return np.asarray(arc / math.sin(angle))


@register(RULES, statistics=gram, finish=_slerp_coefficients, n_members=2, fused=True)
def slerp(stack: Array, weights: Float64, *, state: Float64) -> Array:
    """Spherical interpolation, (sin((1-t)θ) a + sin(tθ) b) / sin θ, t = w[1] / sum(w).

    θ is the angle between the two members. Where they point the same way the limit
    for θ towards zero is the straight line between them; it is also taken where a
    member is zero or both are opposite, as no single arc joins those.

    Near zero the formula is as exact as elsewhere. Towards pi the inner products do not
    hold the angle any more: the relative error grows as 1e-16 / (pi - θ)**2, and from
    pi - 1e-5 on the members count as opposite. Members of float64 whose squares are
    beyond its range, with entries around 1e-170 or 1e160, are refused.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH, section
    3.3.
    """
    return weighted_mean(stack, state, total=1.0)


def _karcher_coefficients(gram: Float64, weights: Float64) -> Float64:
    _check_squares(gram, "karcher_mean")
    share = weights / weights.sum()
    lengths = np.sqrt(np.diagonal(gram))
    some = (lengths != 0) & (share > 0)
    if not some.any():
        return np.asarray(share)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=some)
    cosines = gram * inverse[:, None] * inverse
    point = centre(cosines, np.where(some, share, 0.0))
    return np.asarray(point * inverse * (share @ lengths))


@register(RULES, statistics=gram, finish=_karcher_coefficients, fused=True)
def karcher_mean(stack: Array, weights: Float64, *, state: Float64) -> Array:
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
    return weighted_mean(stack, state, total=1.0)


def _check_squares(products: Float64, rule: str) -> None:
    """Raise if float64 does not hold the squares of a member."""
    squares = np.diagonal(products)
    small = (squares > 0) & (squares < LEAST)
    large = (squares >= MOST) & (squares < np.inf)
    for index in np.flatnonzero(small | large):
        raise ValueError(
            f"members of rule {rule!r} must have entries whose squares "
            f"float64 can hold: those of members[{index}] are too "
            f"{'small' if small[index] else 'large'}; multiply all members by a "
            "power of two, and divide the result by it"
        )
