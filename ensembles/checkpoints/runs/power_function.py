"""Power-function averages: the exponent and the relative standard deviation."""

from __future__ import annotations

import math

from ensembles.selection.table import check_real

# Of equal weights; larger values give early parameters more weight than late ones.
LARGEST_SIGMA_REL = math.sqrt(1 / 12)


def gamma_to_sigma_rel(gamma: float) -> float:
    """Relative standard deviation of a power-function average.

    Parameters
    ----------
    gamma : float, non-negative
        Exponent: parameters at time t have weights proportional to ``t ** gamma``.

    Returns
    -------
    float
        Standard deviation of the weights, relative to the training time.

    Raises
    ------
    ValueError
        If ``gamma`` is negative or not finite.

    References
    ----------
    Karras et al. (2024), "Analyzing and improving the training dynamics of diffusion
    models", arXiv:2312.02696, equation 123.

    Examples
    --------
    >>> round(gamma_to_sigma_rel(6.94), 4)
    0.1
    """
    check_real(gamma=gamma)
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must not be negative, found {gamma}")
    sigma_rel = math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)
    return min(sigma_rel, LARGEST_SIGMA_REL)  # rounding may exceed it


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """Exponent of a power-function average with a relative standard deviation.

    Parameters
    ----------
    sigma_rel : float, positive, at most 1 / sqrt(12)
        Standard deviation of the weights, relative to the training time.

    Returns
    -------
    float
        Non-negative exponent, the largest root of the cubic equation of Karras et al.

    Raises
    ------
    ValueError
        If ``sigma_rel`` is not in this range.

    References
    ----------
    Karras et al. (2024), arXiv:2312.02696, equation 126 and algorithm 2.

    Examples
    --------
    >>> round(sigma_rel_to_gamma(0.1), 2)
    6.94
    """
    check_real(sigma_rel=sigma_rel)
    if not 0 < sigma_rel <= LARGEST_SIGMA_REL:
        raise ValueError(
            "sigma_rel must be positive and at most 1 / sqrt(12) = 0.2887 (equal "
            f"weights), found {sigma_rel}"
        )
    # The largest root of g^3 + g^2 - t g + t = 0 for g = gamma + 2 and t = 1 /
    # sigma_rel^2, by the formula of Viete for three real roots.
    inverse = sigma_rel**-2
    p, q = -inverse - 1 / 3, 4 / 3 * inverse + 2 / 27
    angle = math.acos(1.5 * q / p * math.sqrt(-3 / p)) / 3
    return max(2 * math.sqrt(-p / 3) * math.cos(angle) - 7 / 3, 0.0)


def resolve_gamma(gamma: float | None, sigma_rel: float | None) -> float:
    """Exponent from one of two parameters.

    Parameters
    ----------
    gamma : float, non-negative, or None
        Exponent; None uses ``sigma_rel``.
    sigma_rel : float or None
        Relative standard deviation; None uses ``gamma``.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If both or none are given, or one is out of range.
    """
    if gamma is not None and sigma_rel is None:
        gamma_to_sigma_rel(gamma)  # raises if it is out of range
        return float(gamma)
    if sigma_rel is not None and gamma is None:
        return sigma_rel_to_gamma(sigma_rel)
    raise ValueError(
        "a power-function average needs either gamma or sigma_rel, found "
        f"gamma={gamma} and sigma_rel={sigma_rel}; pass one of them, such as "
        "sigma_rel=0.1 (--schedule power:sigma-rel=0.1)"
    )
