"""Consensus merging: a task vector where it is important for several members."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice, check_number
from ensembles.checkpoints.methods.sparsification.trimming import (
    SCOPES,
    Kept,
    Scope,
    kept_deltas,
    trimming,
)
from ensembles.kernels.task_vectors.sign_election import Sign, elected_sum
from ensembles.registry import register
from ensembles.rules.table import RULES


@register(RULES, passes=trimming(1.0), needs_base=True, signed=True)
def consensus(
    stack: Float64,
    weights: Float64,
    *,
    base: Float64,
    state: Kept | None,
    selectivity: float = 0.4,
    n_agreeing: int = 2,
    density: float | Sequence[float] = 1.0,
    sign: Sign | None = None,
    scale: float = 1.0,
    scope: Scope = "model",
) -> Array:
    """Sum of task vectors, where it is important for several members (TALL masks).

    An entry of the sum t of weighted differences is important for a member i if the
    member is far from the base and near the sum: ``|x[i] - base| > selectivity * |base
    + t - x[i]|``, the TALL mask of the member. The result is ``base + scale * t`` where
    masks of ``n_agreeing`` members agree, and the base elsewhere.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Weight of each task vector, of any sign; 1 by default. Members with weight 0
        have no mask.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    state : Kept or None
        Magnitudes of the entries that are kept, which `Rule` computes.
    selectivity : float, not negative, default=0.4
        Lambda of the paper, which chooses it for each task between 0.2 and 0.6 on
        validation data. With 0, each entry that differs from the base is important.
    n_agreeing : int, not negative, default=2
        Number of masks that must agree, k of the paper. 1 drops the entries that are
        important for no member, 2 those of a single member too, and 0 none.
    density : float or sequence of float, above 0 and at most 1, default=1.0
        Share of the entries of each member with the largest magnitudes that are summed,
        or one share for each member, as in `ties`. Masks compare whole members. 1 keeps
        all, and needs no passes over the members before they are merged.
    sign : {"mass", "unweighted_mass", "count"} or None, default=None
        How elements of the sum elect a sign, with which summed entries must agree, as
        in `ties`; None sums all entries.
    scale : float, default=1.0
        Factor of the sum, alpha of the paper, which is chosen on validation data. Masks
        do not depend on it.
    scope : {"tensor", "model"}, default="model"
        Entries among which the largest are chosen if ``density`` is below 1: those of
        each tensor, or of all float tensors of the model together.

    Raises
    ------
    ValueError
        If a parameter is not valid, or ``n_agreeing`` is larger than the number of
        members.

    Notes
    -----
    NaN passes through, and infinite entries become NaN unless they are important.

    With weights of 1 the default equals the consensus task arithmetic of the authors'
    code with one lambda for all members, up to rounding, and ``density=0.2,
    sign="mass"`` their consensus TIES, which keeps one entry more and resolves equal
    votes by the majority of the elements.

    References
    ----------
    Wang et al. (2024), "Localizing task information for improved model merging and
    compression", arXiv:2405.07813, sections 4 and 5.
    """
    check_number("consensus", "scale", scale)
    check_number("consensus", "selectivity", selectivity, low=0)
    check_choice("consensus", "scope", scope, SCOPES)
    is_number = isinstance(n_agreeing, Integral) and not isinstance(n_agreeing, bool)
    if not (is_number and 0 <= n_agreeing <= len(stack)):
        raise ValueError(
            "n_agreeing of 'consensus' must be an integer from 0 to the number of "
            f"members, {len(stack)}, found {n_agreeing!r}"
        )
    kept = kept_deltas(stack, base, state)
    if sign is None:
        total = np.zeros(base.shape)
        for row, weight in zip(kept, weights, strict=True):
            if weight:
                total += weight * row
    else:
        total = elected_sum(kept, weights, sign=sign, normalize=False)
    n_masks = np.zeros(base.shape, np.int64)
    for row, weight in zip(stack, weights, strict=True):
        if weight:
            delta = row - base
            n_masks += np.abs(delta) > selectivity * np.abs(total - delta)
    # Zero where the masks do not agree, but NaN for entries that are not finite.
    total *= np.where(n_masks >= n_agreeing, scale, 0.0)
    total += base
    return total
