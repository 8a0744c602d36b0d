"""Fisher-weighted averaging: each parameter counts by its Fisher information."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ensembles._typing import Float64
from ensembles.registry import register
from ensembles.rules.passes import Pass
from ensembles.rules.table import RULES


def sums_of_squares(stack: Float64, *, moments: Float64) -> Float64:
    """Sum of squares of the Fisher information of each member."""
    return np.asarray((moments**2).sum(axis=1)[None])


def divisors(
    total: Float64,
    weights: Float64,
    *,
    epsilon: float = 0.0,
    scope: Literal["model", "tensor"] = "model",
) -> Float64:
    """Norm of the Fisher information of each member, infinite if it is 0."""
    if scope not in ("model", "tensor"):
        raise ValueError(f"scope must be 'model' or 'tensor', found {scope!r}")
    norms = np.sqrt(total) + epsilon
    return np.where(norms > 0, norms, np.inf)


def is_normalized(*, normalize: bool = False) -> bool:
    """Whether the norms are needed."""
    return normalize


@register(
    RULES,
    passes=(Pass(sums_of_squares, divisors, is_normalized),),
    needs_moments="fisher",
)
def fisher(
    stack: Float64,
    weights: Float64,
    *,
    moments: Float64,
    state: Float64 | None,
    floor: float = 0.0,
    favor_first: bool = False,
    epsilon: float = 0.0,
    normalize: bool = False,
) -> Float64:
    """Mean of members, each entry weighted by its Fisher information.

    An entry of the result is ``sum(w * F * x) / sum(w * F)`` over members with weights
    w, entries x and diagonal Fisher information F, from `collect_fisher`: the mode of
    the product of Gaussian approximations of the members' posteriors. Where F is 0 for
    all members, and for tensors without F, it is the weighted mean.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size)
        Members along axis 0.
    weights : ndarray of shape (n_members,)
        Non-negative member weights; only their ratios matter.
    moments : ndarray of shape (n_members, size)
        Diagonal Fisher information of each entry, non-negative.
    state : ndarray of shape (n_members,) or None
        Norm of F of each member with ``normalize``.
    floor : float, default=0.0
        Smallest value of F; smaller values are replaced. F is a mean of squared
        gradients, often below 1e-6: then a floor of 1e-6 turns the result into the
        plain mean.
    favor_first : bool, default=False
        Whether ``floor`` applies to the first member only, so that entries that matter
        to no member stay those of the first.
    epsilon : float, default=0.0
        Added to F of each member, after the floor, and to the norms.
    normalize : bool, default=False
        Whether F of each member is divided by its Euclidean norm over all tensors, so
        that each member counts the same; over each tensor with ``scope="tensor"``.

    Returns
    -------
    ndarray of shape (size,)

    Raises
    ------
    ValueError
        If an entry of F, ``floor`` or ``epsilon`` is negative.

    Notes
    -----
    The default is the formula of the paper. ``floor=1e-6, favor_first=True,
    normalize=True`` is the code of its authors (mmatena/model_merging);
    ``epsilon=1e-6, normalize=True`` are MergeLM and FusionBench, whose F differs too:
    they square the gradient of a whole batch, summed over all classes.

    References
    ----------
    Matena and Raffel (2022), "Merging models with Fisher-weighted averaging",
    arXiv:2111.09832, equation 2.
    """
    if min(floor, epsilon) < 0:
        raise ValueError(
            f"floor and epsilon must not be negative, found {floor} and {epsilon}"
        )
    if (moments < 0).any():
        raise ValueError(
            "Fisher information must not be negative, found "
            f"{moments[moments < 0][0]}; collect it with collect_fisher"
        )
    information = moments
    if floor > 0:
        is_floored = np.arange(len(stack)) < (1 if favor_first else len(stack))
        floors = np.where(is_floored, floor, 0.0)[:, None]
        information = np.maximum(information, floors)
    scale = weights if state is None else weights / state
    rows = np.flatnonzero(weights)  # infinities of other members must not count
    counted = (information[rows] + epsilon) * scale[rows, None]
    total = counted.sum(axis=0)
    weighted = (counted * stack[rows]).sum(axis=0) / total
    if (total > 0).all():
        return np.asarray(weighted)
    mean = (weights[rows, None] * stack[rows]).sum(axis=0) / weights.sum()
    return np.where(total > 0, weighted, mean)
