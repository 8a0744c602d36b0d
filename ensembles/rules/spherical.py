"""Spherical rules: linear combinations with coefficients from angles of members."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.gram import LEAST, MOST, gram
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.registry import register
from ensembles.rules.table import RULES


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
        if length < CANCELED:
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
CANCELED = 1e-7  # length of a mean of unit vectors, below which it is rounding error


def arc_coefficients(squares: Float64, products: Float64, t: float) -> Float64:
    """Coefficients of points on the arcs between pairs of vectors.

    Parameters
    ----------
    squares : ndarray of shape (2, *shape)
        Squared lengths of the vectors of each pair.
    products : ndarray of shape (*shape,)
        Inner product of each pair.
    t : float, from 0 to 1
        Share of the arc, from the first vector.

    Returns
    -------
    ndarray of shape (2, *shape)
        Of linear interpolation if a vector is zero or the angle is 0 or almost pi; NaN
        if a vector has an infinity.
    """
    lengths = np.sqrt(squares)
    scale = lengths[0] * lengths[1]
    with np.errstate(invalid="ignore"):  # a vector has an infinity
        cosines = np.divide(
            products, scale, out=np.ones_like(scale), where=np.asarray(scale != 0)
        )
    angles = np.arccos(np.clip(cosines, -1, 1))
    sines = np.sin(angles)
    is_line = (sines == 0) | (angles > math.pi - OPPOSITE)
    divisors = np.where(is_line, 1.0, sines)
    return np.array(
        [
            np.where(is_line, 1 - t, np.sin((1 - t) * angles) / divisors),
            np.where(is_line, t, np.sin(t * angles) / divisors),
        ]
    )


def slerp_coefficients(gram: Float64, weights: Float64) -> Float64:
    """Coefficients of the point on the arc between two vectors.

    Parameters
    ----------
    gram : ndarray of shape (2, 2)
        Inner products of the vectors.
    weights : ndarray of shape (2,)
        Weight of each vector; the share of the arc is w[1] / sum(w).

    Returns
    -------
    ndarray of shape (2,)
    """
    squares = np.diagonal(gram)
    check_squares(squares)
    return arc_coefficients(squares, gram[0, 1], weights[1] / weights.sum())


@register(RULES, statistics=gram, finish=slerp_coefficients, n_members=2, fused=True)
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

    Notes
    -----
    mergekit 0.1.5 and many scripts interpolate linearly where the cosine of the angle
    exceeds 0.9995, as it does for most members that are fine-tuned from one base. Here
    these members are interpolated on the arc too, so that the length of the result may
    differ from theirs by up to a factor of 1.00013.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH, section
    3.3.
    """
    return weighted_mean(stack, state, total=1.0)


def _karcher_coefficients(gram: Float64, weights: Float64) -> Float64:
    check_squares(np.diagonal(gram))
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


def directional_coefficients(
    gram: Float64, weights: Float64, *, normalize: bool = True, eps: float = 0.0
) -> Float64:
    """Coefficients of the mean direction with the mean length.

    Parameters
    ----------
    gram : ndarray of shape (n_members, n_members)
        Inner products of the vectors.
    weights : ndarray of shape (n_members,)
        Weight of each vector.
    normalize : bool, default=True
        Whether the lengths are divided by the sum of the weights.
    eps : float, default=0.0
        Added to the lengths before they divide the vectors.

    Returns
    -------
    ndarray of shape (n_members,)
    """
    if not isinstance(normalize, bool):
        raise ValueError(
            f"normalize of 'multislerp' must be True or False, found {normalize!r}"
        )
    if not (isinstance(eps, Real) and 0 <= eps < math.inf):
        raise ValueError(
            "eps of 'multislerp' must be a finite number, and not negative, found "
            f"{eps!r}"
        )
    check_squares(np.diagonal(gram))
    lengths, total = np.sqrt(np.diagonal(gram)), weights.sum()
    share = weights / total
    point = np.divide(
        share, lengths + eps, out=np.zeros(len(share)), where=lengths != 0
    )
    length = _length(point, gram)
    if length >= CANCELED or math.isnan(length):
        share = point * (share @ lengths) / length
    return np.asarray(share if normalize else share * total)


@register(
    RULES,
    statistics=gram,
    finish=directional_coefficients,
    weight_sum_matters=True,
    fused=True,
)
def multislerp(
    stack: Array,
    weights: Float64,
    *,
    state: Float64,
    normalize: bool = True,
    eps: float = 0.0,
) -> Array:
    """Mean direction with the mean length, m * sum(w[i] |x[i]|) / sum(w) / |m|.

    m = sum(w[i] x[i] / |x[i]|) is the sum of the directions. This is mergekit's
    Multi-SLERP: it projects the directions onto the plane that touches the sphere at
    their mean, averages them there and maps the result back to the sphere. The average
    of these projections is zero, because the plane touches the sphere at the mean, so
    that the result is the normalized mean. It minimizes the sum of the squared chords
    between directions, as ``karcher_mean`` does the squared angles; for two members of
    equal weight both have the direction of ``slerp`` at 1/2.

    Zero members have no direction and count in the length only. If the directions
    cancel, the result is the weighted mean of the members.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.
    state : ndarray of shape (n_members,)
        Coefficients of the members, which `Rule` computes from their Gram matrix.
    normalize : bool, default=True
        Whether the lengths are divided by the sum of the weights. False multiplies the
        result by the sum, as mergekit does with ``normalize_weights: false``.
    eps : float, not negative, default=0.0
        Added to the lengths of members before they divide them, so that the directions
        of short members count less. 1e-8 is mergekit's default.

    Raises
    ------
    ValueError
        If ``normalize`` or ``eps`` is not valid, or the squares of a float64 member are
        out of range, with entries around 1e-170 or 1e160.

    Notes
    -----
    mergekit 0.1.5 raises an error for three or more members whose directions cancel,
    and computes in the format of the members: with bfloat16, its projections are
    rounding errors, which are added to the result.

    References
    ----------
    Goddard (2025), "Multi-SLERP", goddard.blog/posts/multislerp-wow-what-a-cool-idea;
    for the mean direction Mardia & Jupp (2000), Directional statistics, section 9.2.
    """
    return weighted_mean(stack, state, total=1.0)


def check_squares(squares: Float64) -> None:
    """Raise if the squared length of a vector is out of the range of float64.

    Parameters
    ----------
    squares : ndarray of shape (n_members, *shape)
        Squared lengths of vectors of each member.

    Raises
    ------
    ValueError
        If a squared length is too small to be exact, or too large for float64.
    """
    small = (squares > 0) & (squares < LEAST)
    large = (squares >= MOST) & (squares < np.inf)
    for index in np.argwhere(small | large).tolist():
        raise ValueError(
            "members must have entries whose squares float64 can hold: those of "
            f"members[{index[0]}] are too {'small' if small[*index] else 'large'}; "
            "multiply all members by a power of two, and divide the result by it"
        )
