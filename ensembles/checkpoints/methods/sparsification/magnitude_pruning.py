"""Magnitude pruning: the sum of trimmed task vectors, without election of signs."""

from __future__ import annotations

from collections.abc import Sequence

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import (
    check_choice,
    check_number,
    weight_divisor,
)
from ensembles.checkpoints.methods.sparsification.trimming import (
    SCOPES,
    Kept,
    Scope,
    trimming,
)
from ensembles.kernels.task_vectors.trimmed_merge import merge_trimmed
from ensembles.registry import register
from ensembles.rules.table import RULES


@register(RULES, passes=trimming(0.2), needs_base=True, signed=True, fused=True)
def magnitude_prune(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Kept | None,
    density: float | Sequence[float] = 0.2,
    normalize: bool = False,
    scale: float = 1.0,
    scope: Scope = "tensor",
) -> Array:
    """Task arithmetic of task vectors that keep their largest entries.

    Each difference x[i] - base is trimmed to the share ``density`` of its entries with
    the largest magnitudes, d[i], and the result is ``base + scale * sum(w[i] d[i])``.
    This is `ties` without the election of signs, and with ``density=1``
    `task_arithmetic`.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Weight of each task vector, of any sign; 1 by default.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    state : Kept or None
        Magnitudes of the entries that are kept, which `Rule` computes.
    density : float or sequence of float, above 0 and at most 1, default=0.2
        Share of the entries of each member that is kept, or one share for each member.
        Entries that equal the smallest kept one are kept too. 1 keeps all.
    normalize : bool, default=False
        Whether the sum is divided by the sum of the weights.
    scale : float, default=1.0
        Factor of the sum, λ of task arithmetic.
    scope : {"tensor", "model"}, default="tensor"
        Entries among which the largest are chosen: those of each tensor, or of all
        float tensors of the model together.

    Raises
    ------
    ValueError
        If a parameter is not valid, or the weights sum to zero with ``normalize=True``.

    Notes
    -----
    Magnitudes are compared as in `ties`: with the precision of float32, NaN the
    largest, and one entry is kept at least.

    With distinct magnitudes the default equals ``combination_type="magnitude_prune"``
    of peft 0.21 up to rounding, on the factors of adapters. peft has no default for
    ``density``, keeps an arbitrary choice of entries with equal magnitudes, may keep
    none, and computes in the members' format.

    References
    ----------
    Han et al. (2015), "Learning both weights and connections for efficient neural
    networks", arXiv:1506.02626, for networks; for task vectors, the merging guide of
    peft.
    """
    check_number("magnitude_prune", "scale", scale)
    check_choice("magnitude_prune", "scope", scope, SCOPES)
    divisor = weight_divisor("magnitude_prune", weights, normalize)
    return merge_trimmed(
        stack,
        weights,
        base,
        None if state is None else (state.low, state.high),
        scale=scale,
        divisor=divisor,
        sign=None,
    )
