"""Spherical rules: linear combinations with coefficients from the Gram matrix."""

from __future__ import annotations

import math

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.gram import LEAST, MOST, gram
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.registry import register
from ensembles.rules.table import RULES


def angles(gram: Float64) -> Float64:
    """Angles between vectors.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        Inner products of the vectors.

    Returns
    -------
    ndarray of shape (n, n), from 0 to pi
        0 for zero vectors, NaN for vectors with an infinity.
    """
    lengths = np.sqrt(np.diagonal(gram))
    products = np.outer(lengths, lengths)
    with np.errstate(invalid="ignore"):  # a member holds an infinity
        cosines = np.divide(gram, products, out=np.ones_like(gram), where=products != 0)
    return np.asarray(np.arccos(np.clip(cosines, -1, 1)))


def spherical_mean(cosines: Float64, share: Float64) -> Float64:
    """Coefficients of the Karcher mean of unit vectors, which has length 1.

    Parameters
    ----------
    cosines : ndarray of shape (n, n)
        Inner products of the unit vectors.
    share : ndarray of shape (n,), non-negative
        Weight of each vector.

    Returns
    -------
    ndarray of shape (n,)
        If the vectors cancel, the Karcher mean does not exist, and these are the
        coefficients of the arithmetic mean.
    """
    share = share / share.sum()
    point = share
    for _ in range(200):
        length = _length(point, cosines)
        if length < 1e-7:
            return share
        point = point / length
        projections = np.clip(cosines @ point, -1, 1)
        angles, sines = np.arccos(projections), np.sqrt(1 - projections**2)
        pull = share * np.divide(
            angles, sines, out=np.ones_like(angles), where=sines > 1e-8
        )
        step = pull - (pull @ projections) * point
        size = _length(step, cosines)
        if size < 1e-14:
            break
        point = math.cos(size) * point + math.sin(size) / size * step
    return point


def _length(point: Float64, gram: Float64) -> float:
    return math.sqrt(max(float(point @ gram @ point), 0.0))


OPPOSITE = 1e-5  # radians; closer to pi, rounding of inner products hides the angle


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

    θ is the angle between the two members. The limit for θ towards 0 is linear
    interpolation, which is also used if a member is zero or both are opposite, because
    no unique arc joins them.

    For small θ the formula is as accurate as elsewhere. Near pi the inner products do
    not determine the angle: the relative error grows as 1e-16 / (pi - θ)**2, and from
    pi - 1e-5 on the members count as opposite.

    Parameters
    ----------
    stack : array-like of shape (2, *shape)
        Members along axis 0.
    weights : array-like of shape (2,)
        Non-negative weight of each member.
    state : ndarray of shape (2,)
        Coefficients of the members, which `Rule` computes from their Gram matrix.

    Raises
    ------
    ValueError
        If the squares of a float64 member are out of range, with entries around 1e-170
        or 1e160.

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
    is_counted = (lengths != 0) & (share > 0)
    if not is_counted.any():
        return np.asarray(share)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=is_counted)
    cosines = gram * inverse[:, None] * inverse
    point = spherical_mean(cosines, np.where(is_counted, share, 0.0))
    return np.asarray(point * inverse * (share @ lengths))


@register(RULES, statistics=gram, finish=_karcher_coefficients, fused=True)
def karcher_mean(stack: Array, weights: Float64, *, state: Float64) -> Array:
    """Karcher mean of directions, the m that minimizes sum(w[i] angle(m, x[i])²).

    The result has the weighted mean length of the members. The direction is found by
    gradient descent, in steps along the weighted mean of the logarithm maps. Zero
    members have no direction and count in the length only.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.
    state : ndarray of shape (n_members,)
        Coefficients of the members, which `Rule` computes from their Gram matrix.

    Raises
    ------
    ValueError
        If the squares of a float64 member are out of range, with entries around 1e-170
        or 1e160.

    References
    ----------
    Karcher (1977), "Riemannian center of mass and mollifier smoothing",
    Communications on Pure and Applied Mathematics 30; for checkpoints
    arXiv:2603.04972.
    """
    return weighted_mean(stack, state, total=1.0)


def _check_squares(products: Float64, rule: str) -> None:
    """Raise if the squared length of a member is out of the range of float64."""
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
