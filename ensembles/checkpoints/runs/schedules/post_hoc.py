"""Post-hoc EMA: an average of any length from stored power-function averages."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import warn_caller
from ensembles._typing import Float64
from ensembles.checkpoints.runs.power_function import sigma_rel_to_gamma

# Of the singular values of the scaled system, relative to the largest. Below it they
# are rounding errors, which would become large weights of opposite signs.
ROUNDING = 1e-12
LARGE = 0.1  # error that is warned of


class PostHocWeights(NamedTuple):
    """Weights of stored averages, and how closely they reach the target.

    Parameters
    ----------
    weights : ndarray of shape (n_averages,), float64
        Weight of each stored average, of any sign, with sum 1.
    error : float
        L2 norm of the difference between the profile of the weighted sum and that of
        the target, relative to the norm of the latter. A profile is the weight of the
        parameters as a function of the training time.
    """

    weights: Float64
    error: float


def post_hoc_weights(
    positions: ArrayLike,
    sigma_rels: ArrayLike,
    *,
    target: float,
    at: float | None = None,
) -> PostHocWeights:
    """Weights with which stored power-function averages add up to another average.

    Parameters
    ----------
    positions : array-like of shape (n_averages,)
        Step at which each average was stored, counted from the beginning of the
        training; averages of the same run, in any order.
    sigma_rels : array-like of shape (n_averages,), or float
        Relative standard deviation of each average, such as 0.05 or 0.1; a number is
        that of all averages.
    target : float, positive, at most 1 / sqrt(12)
        Relative standard deviation of the average to reconstruct.
    at : float or None, default=None
        Step of the average to reconstruct; None means the last of ``positions``.

    Returns
    -------
    PostHocWeights

    Raises
    ------
    ValueError
        If a position is not positive, a relative standard deviation is out of range,
        two averages are the same, or ``at`` is not positive or after the last average.

    Warns
    -----
    UserWarning
        If the error is larger than a tenth.

    References
    ----------
    Karras et al. (2024), "Analyzing and improving the training dynamics of diffusion
    models", CVPR, arXiv:2312.02696, section 3.2, appendix C and algorithm 3. Here the
    linear system is scaled and solved by singular values, because it is singular up to
    rounding if many averages are stored.

    Examples
    --------
    >>> weights, error = post_hoc_weights([1000, 1000], [0.05, 0.1], target=0.07)
    >>> weights.round(3)
    array([0.438, 0.562])
    """
    steps = np.asarray(positions, np.float64).ravel()
    deviations = np.broadcast_to(np.asarray(sigma_rels, np.float64), steps.shape)
    at = steps.max(initial=0.0) if at is None else float(at)
    _check(steps, deviations, at)
    gammas = np.array([sigma_rel_to_gamma(value) for value in deviations.tolist()])
    times = steps / steps.max()
    final, gamma = np.array([at / steps.max()]), np.array([sigma_rel_to_gamma(target)])
    norms = np.sqrt(_inner_products(times, gammas, times, gammas).diagonal())
    system = _inner_products(times, gammas, times, gammas) / np.outer(norms, norms)
    norm = np.sqrt(_inner_products(final, gamma, final, gamma)[0, 0])
    cosines = _inner_products(times, gammas, final, gamma)[:, 0] / (norms * norm)
    scaled = np.linalg.lstsq(system, cosines, rcond=ROUNDING)[0] / norms
    weights = scaled / scaled.sum()
    parts = weights * norms / norm
    squared = 1 - 2 * parts @ cosines + parts @ system @ parts
    error = math.sqrt(max(float(squared), 0.0))
    if error > LARGE:
        warn_caller(
            f"the stored averages reach sigma_rel={target:g} at step {at:g} only with "
            f"an error of {error:.0%} of its profile; choose a step at which averages "
            "were stored, or a target between their sigma_rel"
        )
    return PostHocWeights(weights, error)


def _inner_products(
    times: Float64, gammas: Float64, other_times: Float64, other_gammas: Float64
) -> Float64:
    """Integrals of the products of power-function profiles, one row per ``times``."""
    t, g = times[:, None], gammas[:, None]
    exponents = np.where(t < other_times, other_gammas, -g)
    scale = (g + 1) * (other_gammas + 1) / (g + other_gammas + 1)
    products = scale * (t / other_times) ** exponents / np.maximum(t, other_times)
    return np.asarray(products)


def _check(steps: Float64, deviations: Float64, at: float) -> None:
    """Raise if stored averages or the position of the target are not valid."""
    if not len(steps):
        raise ValueError("post-hoc EMA needs at least one stored average, found none")
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(
            f"positions of stored averages must be positive, found {steps.tolist()}"
        )
    averages = Counter(zip(steps.tolist(), deviations.tolist(), strict=True))
    (step, deviation), number = averages.most_common(1)[0]
    if number > 1:
        raise ValueError(
            f"stored averages must be different, found {number} at step {step:g} with "
            f"sigma_rel={deviation:g}"
        )
    if not 0 < at <= steps.max():
        raise ValueError(
            f"at must be positive and at most the step of the last stored average, "
            f"{steps.max():g}, found {at:g}"
        )
