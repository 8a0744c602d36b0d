"""TIES: trimmed task vectors, merged where they agree with an elected sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.checkpoints.methods.checks import check_choice, check_number
from ensembles.checkpoints.methods.sparsification.trimming import (
    SCOPES,
    Kept,
    Scope,
    kept_deltas,
    trimming,
)
from ensembles.kernels.casting import widen
from ensembles.kernels.task_vectors.sign_election import Sign, elected_sum
from ensembles.kernels.task_vectors.stored_members import PIECE
from ensembles.kernels.task_vectors.trimmed_merge import merge_trimmed
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.passes import Pass
from ensembles.rules.table import RULES

ZeroSum = Literal["zero", "positive", "majority"]
ZERO_SUMS = ("zero", "positive", "majority")


def _count_signs(
    stack: Array,
    *,
    base: Array,
    weights: Float64,
    total: Counts | None,
    state: Kept | None,
    sign: Sign = "mass",
) -> Counts:
    """Number of elements that elect the positive sign, minus the negative ones."""
    if total is None:
        total = np.zeros((), np.int64)
    if sign == "unweighted_mass":
        weights = (weights != 0).astype(np.float64)
    for start, stop in chunks(base.size, PIECE):
        members = np.ascontiguousarray(widen(stack[:, start:stop]))
        deltas = kept_deltas(members, widen(base[None, start:stop])[0], state)
        elected = elected_sum(deltas, weights, sign=sign, normalize=False)
        total += np.count_nonzero(elected > 0) - np.count_nonzero(elected < 0)
    return total


def _majority(total: Counts, weights: Float64, *, state: Kept | None) -> Kept:
    if state is None:
        n_members = len(weights)
        state = Kept(np.zeros(n_members), np.full(n_members, np.inf))
    return state._replace(majority=int(np.sign(total)))


def _is_majority_needed(zero_sum: ZeroSum = "zero") -> bool:
    return zero_sum == "majority"


@register(
    RULES,
    passes=(*trimming(0.2), Pass(_count_signs, _majority, _is_majority_needed)),
    needs_base=True,
    signed=True,
    fused=True,
)
def ties(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Kept | None,
    density: float | Sequence[float] = 0.2,
    sign: Sign = "mass",
    zero_sum: ZeroSum = "zero",
    normalize: bool | Literal["count"] = True,
    scale: float = 1.0,
    scope: Scope = "model",
) -> Array:
    """Trimmed task vectors, merged where their signs agree (TIES).

    Each difference x[i] - base is trimmed to the share ``density`` of its entries with
    the largest magnitudes, d[i]. Each element elects a sign, and the result is ``base +
    scale * sum(w[i] d[i]) / sum(w[i])`` over the members whose entry has this sign.
    Zeros have no sign: a member counts in the divisor only where its entry is kept.

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
        Entries that equal the smallest kept one are kept too. 1 keeps all, and needs no
        passes over the members before they are merged.
    sign : {"mass", "unweighted_mass", "count"}, default="mass"
        How a sign is elected: the sign of the sum of weighted entries, of the sum of
        entries without weights, or the more frequent sign of weighted entries.
    zero_sum : {"zero", "positive", "majority"}, default="zero"
        Result where the votes for both signs are equal, up to rounding. ``"zero"``
        keeps the base, ``"positive"`` elects the positive sign, and ``"majority"`` the
        sign that more elements of the tensor or model elect, which needs one more pass.
    normalize : bool or "count", default=True
        Divisor of the sum of agreeing weighted entries: True is the sum of the absolute
        weights of the agreeing members, ``"count"`` their number, False is 1.
    scale : float, default=1.0
        Factor of the merged entries, λ of the paper.
    scope : {"tensor", "model"}, default="model"
        Entries among which the largest are chosen: those of each tensor, or of all
        float tensors of the model together. In calls with arrays, the array is all.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    Notes
    -----
    Magnitudes are compared with the precision of float32. NaN entries are the largest
    and always kept. Members of bfloat16 have few different magnitudes, so that many
    entries may equal the smallest kept one, and all of them are kept. At least one
    entry is kept.

    A list has one value for each member. In mergekit, lists are gradients over the
    layers, and each model has a ``density`` of its own.

    Published implementations differ. With positive weights and distinct magnitudes they
    are equal up to rounding to:

    ==================== ========================================================
    implementation       parameters
    ==================== ========================================================
    paper                the default
    authors' code        ``zero_sum="majority"``; it keeps one entry more than the
                         share
    mergekit 0.1.5       ``scope="tensor", zero_sum="positive"``; its ``lambda`` is
                         ``scale``, its ``normalize: false`` is False
    peft 0.21            ``scope="tensor", sign="unweighted_mass", normalize="count",
                         zero_sum="positive"``, on the factors of adapters;
                         ``majority_sign_method="frequency"`` is ``sign="count"``
    ==================== ========================================================

    mergekit and peft keep an arbitrary choice of entries with equal magnitudes, so that
    exactly the share is kept; peft may keep none. mergekit divides by the sum of signed
    weights, which may be near zero if weights have both signs, and keeps all entries of
    a tensor with ``density`` 1, as here. Both compute in the members' format.

    References
    ----------
    Yadav et al. (2023), "TIES-merging: resolving interference when merging models",
    arXiv:2306.01708, section 4.
    """
    check_number("ties", "scale", scale)
    check_choice("ties", "zero_sum", zero_sum, ZERO_SUMS)
    check_choice("ties", "scope", scope, SCOPES)
    majority = 0 if state is None else state.majority
    return merge_trimmed(
        stack,
        weights,
        base,
        None if state is None else (state.low, state.high),
        scale=scale,
        sign=sign,
        normalize=normalize,
        zero_sum=1 if zero_sum == "positive" else majority,
    )
