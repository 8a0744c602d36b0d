"""RAM: changes of a single member are kept, changes of several are averaged."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice, check_number
from ensembles.kernels.task_vectors.active_deltas import count_active, merge_active
from ensembles.registry import register
from ensembles.rules.passes import Pass
from ensembles.rules.table import RULES


def _count(
    stack: Float64,
    *,
    base: Float64,
    weights: Float64,
    total: Array | None,
    epsilon: float = 1e-5,
) -> Array:
    """Add the numbers of unique and shared entries of each member with a weight."""
    check_number("ram", "epsilon", epsilon, low=0)
    total = np.zeros((2, len(stack)), np.int64) if total is None else total
    total[:, weights != 0] += count_active(stack[weights != 0], base, epsilon)
    return total


def _factors(
    total: Array,
    weights: Float64,
    *,
    r: float = 0.0,
    alpha: float = 1.0,
    scope: Literal["tensor", "model"] = "model",
) -> Float64:
    """Factor of each member's unique changes."""
    check_number("ram", "r", r, low=0)
    check_number("ram", "alpha", alpha, low=0)
    check_choice("ram", "scope", scope, ("tensor", "model"))
    unique, shared = total.astype(np.float64)
    # Without unique entries the factor has no effect.
    overlap = np.divide(shared, unique, out=np.zeros_like(unique), where=unique > 0)
    return np.asarray(1 + r * np.minimum(overlap, alpha))


def _rescales(r: float = 0.0) -> bool:
    return r != 0


@register(
    RULES,
    passes=[Pass(_count, _factors, _rescales, fused=False)],
    needs_base=True,
    signed=True,
    fused=True,
)
def ram(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Float64 | None,
    epsilon: float = 1e-5,
    r: float = 0.0,
    alpha: float = 1.0,
    scope: Literal["tensor", "model"] = "model",
) -> Array:
    """Reinforced agent merging, base plus unique changes plus the mean of shared ones.

    A member changed an entry if it differs from the base by more than ``epsilon``. If
    one member changed it, its task vector x[i] - base is added; if k > 1 members did,
    the sum of theirs divided by k. The mean over all members, as in other methods,
    dilutes the sparse task vectors of reinforcement learning, which rarely overlap.

    ``r > 0`` is RAM+: unique changes of member i are multiplied by
    1 + r * min(s[i] / u[i], alpha), where s[i] and u[i] are the numbers of its shared
    and unique changes.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Factor of each task vector, of any sign; 1 by default, as in the paper. A member
        with weight 0 changes nothing.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    state : ndarray of shape (n_members,) or None
        Factors of unique changes, which `Rule` computes from the numbers of changes;
        None with ``r=0``.
    epsilon : float, default=1e-5
        Largest difference from the base that counts as unchanged. Smaller differences
        are dropped.
    r : float, default=0.0
        Strength of the rescaling of unique changes; 0 is RAM.
    alpha : float, default=1.0
        Largest ratio of shared to unique changes that increases the factor.
    scope : {"tensor", "model"}, default="model"
        Whether changes are counted for each tensor or over the whole checkpoint.

    Raises
    ------
    ValueError
        If ``epsilon``, ``r`` or ``alpha`` is negative or not finite, or ``scope`` is
        unknown.

    Notes
    -----
    The authors' code with ``rescale_factor=f`` is ``r=f - 1`` (1.2 and 1.05 in their
    examples; in it a member without unique changes is a division by zero). mergekit
    0.1.5: ``ram`` is the same, and ``ramplus_tl``, with its defaults, is ``r=0.1,
    alpha=0.2, scope="tensor"``. Both compare and add in the format of the members, in
    which a difference near ``epsilon`` may be on the other side.

    References
    ----------
    Yuan et al. (2026), "Behavior knowledge merge in reinforced agentic models",
    arXiv:2601.13572.
    """
    check_number("ram", "epsilon", epsilon, low=0)
    if state is None:
        state = _factors(
            np.ones((2, len(stack))), weights, r=r, alpha=alpha, scope=scope
        )
    if not weights.all():
        counted = weights != 0
        stack, weights, state = stack[counted], weights[counted], state[counted]
    return merge_active(stack, base, weights, weights * state, epsilon)
