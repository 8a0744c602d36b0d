"""Rules computed from the distances between members: the geometric median."""

from __future__ import annotations

import math

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.gram import LEAST, MOST, squared_distances
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.registry import register
from ensembles.rules.table import RULES

SCOPES = ("tensor", "model")
SLACK = 1e-15  # rounding error of a sum of distances
PATIENCE = 5  # steps that do not descend by more
ROUNDING = 1e-13  # relative; rounding error of forces and distances
MAX_STEPS = 1000  # 4 is usual; random members of very different scale needed 34


def median_coefficients(squares: Float64, weights: Float64) -> Float64:
    """Coefficients of the geometric median of points, which sum to 1.

    A point is the median if the others pull at it with at most its own weight. If
    several points are, so is each mean of them, and the result is their mean. Otherwise
    a descent starts from the best point, by a step that leaves it behind (Beck &
    Sabach 2015, "Weiszfeld's method: old and new results", section 7), and continues
    with Newton's steps where they descend, else with Weiszfeld's.

    Parameters
    ----------
    squares : ndarray of shape (n_points, n_points)
        Squared distances between the points.
    weights : ndarray of shape (n_points,), positive
        Weight of each point.

    Returns
    -------
    ndarray of shape (n_points,)
        NaN if a distance is NaN or infinite.
    """
    if not np.isfinite(squares).all():
        return np.full(len(weights), np.nan)
    distances = np.sqrt(squares)
    is_same = squares == 0
    # Column j has the coefficients of the force at point j: weight / distance.
    forces = np.divide(
        weights[:, None], distances, out=np.zeros_like(squares), where=~is_same
    )
    own = weights @ is_same
    totals = forces.sum(axis=0)
    pulls = totals * (forces * squares).sum(axis=0)
    pulls = np.sqrt(np.maximum(pulls - (forces * (squares @ forces)).sum(0) / 2, 0))
    is_median = pulls <= own * (1 + ROUNDING)
    if is_median.any():  # equal points count once
        share = is_median / is_same.sum(axis=0)
        return np.asarray(share / share.sum())
    best = int(np.argmin(weights @ distances))
    direction = forces[:, best] / pulls[best]
    direction[best] = -direction.sum()
    length = (pulls[best] - own[best]) / totals[best]
    return _descend(
        _leave(best, direction * length, squares, weights), squares, weights
    )


def _leave(index: int, step: Float64, squares: Float64, weights: Float64) -> Float64:
    """Coefficients on a line of descent from a point, as far as doubling descends."""
    start = np.zeros(len(weights))
    start[index] = 1
    total = weights @ _distances(start + step, squares)
    for _ in range(MAX_STEPS):
        further = weights @ _distances(start + 2 * step, squares)
        if further > total * (1 + SLACK):
            break
        step, total = 2 * step, further
    return np.asarray(start + step)


def _descend(point: Float64, squares: Float64, weights: Float64) -> Float64:
    """Coefficients of the geometric median, from the ones of a point near it."""
    total, patience = math.inf, PATIENCE
    for _ in range(MAX_STEPS):
        steps = _steps(point, squares, weights)
        points = [point * (1 - step.sum()) + step for step in steps]
        points = [moved / moved.sum() for moved in points]
        totals = np.array([weights @ _distances(moved, squares) for moved in points])
        # The first that descends the most, up to rounding.
        chosen = int(np.argmax(totals <= np.nanmin(totals) * (1 + SLACK)))
        patience = PATIENCE if totals[chosen] < total * (1 - SLACK) else patience - 1
        shift = np.abs(points[chosen] - point).max()
        point, total = points[chosen], float(totals[chosen])
        if not patience or shift <= ROUNDING * np.abs(point).max():
            break
    return np.asarray(point)


def _distances(point: Float64, squares: Float64) -> Float64:
    """Distances of a linear combination of points from each of them."""
    products = squares @ point
    return np.sqrt(np.maximum(products - point @ products / 2, np.finfo(float).tiny))


def _steps(point: Float64, squares: Float64, weights: Float64) -> list[Float64]:
    """Newton's step, parts of it, and Weiszfeld's, which always descends.

    A step is an array of the share of each combined point by which the point moves
    towards it.
    """
    distances = _distances(point, squares)
    forces = weights / distances
    total = forces.sum()
    weiszfeld = forces / total
    lengths = distances**2
    cosines = lengths[:, None] + lengths - squares
    cosines /= 2 * np.outer(distances, distances)
    # The Hessian is total * I - U diag(forces) U', U the directions from the points.
    matrix = total * np.eye(len(weights)) - forces[:, None] * cosines
    try:
        newton = np.linalg.solve(matrix, weights) / distances
    except np.linalg.LinAlgError:  # all points on a line
        return [weiszfeld]
    # The median is in the convex hull, and large coefficients lose digits.
    newton /= max(1.0, np.abs(newton).max())
    return [newton, newton / 4, newton / 16, newton / 64, weiszfeld]


def _coefficients(
    total: Float64, weights: Float64, *, scope: str = "tensor"
) -> Float64:
    if scope not in SCOPES:
        raise ValueError(
            f"scope of 'geometric_median' must be 'tensor' or 'model', found {scope!r}"
        )
    counted = np.flatnonzero(weights)
    squares = total[np.ix_(counted, counted)]
    _check_range(squares)
    out = np.zeros(len(weights))
    out[counted] = median_coefficients(squares, weights[counted] / weights.sum())
    return out


def _check_range(squares: Float64) -> None:
    """Raise if the square of a distance is out of the range of float64."""
    small = (squares > 0) & (squares < LEAST)
    large = (squares >= MOST) & (squares < np.inf)
    if small.any() or large.any():
        raise ValueError(
            "members of rule 'geometric_median' must have distances whose squares "
            "float64 can hold, and at least one is too "
            f"{'small' if small.any() else 'large'}; multiply all members by a power "
            "of two, and divide the result by it"
        )


@register(RULES, statistics=squared_distances, finish=_coefficients, fused=True)
def geometric_median(
    stack: Array, weights: Float64, *, state: Float64, scope: str = "tensor"
) -> Array:
    """Geometric median, the m that minimizes sum(w[i] |m - x[i]|).

    The distances are Euclidean, between whole tensors or whole checkpoints. The weight
    of a member bounds its influence, however far from the others it is, so that the
    result stays near the others if outliers have less than half of the total weight.
    With scalars it is the rule ``median``.

    It is a linear combination of the members, computed from the distances between them,
    in one pass over the data, and not smoothed: the sum is minimal up to rounding. If a
    member is the median, the result is that member, bit for bit. The median is unique
    unless all members are on a line; then all points between two members may minimize
    the sum, and the result is the mean of these two, as for two members of equal
    weight.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.
    state : ndarray of shape (n_members,)
        Coefficients of the members, which `Rule` computes from their distances.
    scope : {"tensor", "model"}, default="tensor"
        Vectors whose geometric median is computed: each tensor on its own, or all float
        tensors of a checkpoint together, as in robust aggregation (Pillutla et al.).
        The results of functions in memory are always of a single tensor.

    Raises
    ------
    ValueError
        If ``scope`` is unknown, or the squared distance of two float64 members is out
        of range, with differences around 1e-140 or 1e150.

    Notes
    -----
    ``geometric_median`` of sd-mecha takes each tensor, and smooths the distances with
    ``eps=1e-6``, as does ``geom_median`` of Pillutla et al.: their results differ from
    this one where a member is the median, or nearly.

    References
    ----------
    Weiszfeld (1937), "Sur le point pour lequel la somme des distances de n points
    donnés est minimum", Tohoku Mathematical Journal 43; for parameters Pillutla, Kakade
    & Harchaoui (2022), "Robust aggregation for federated learning", arXiv:1912.13445.
    """
    return weighted_mean(stack, state, total=1.0)
