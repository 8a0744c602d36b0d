"""Breadcrumbs: task vectors without their outliers and their small entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.checkpoints.methods.checks import (
    check_choice,
    check_number,
    weight_divisor,
)
from ensembles.checkpoints.methods.sparsification.trimming import (
    SCOPES,
    Kept,
    Scope,
    n_kept,
    shares_of_members,
)
from ensembles.kernels.task_vectors.magnitudes import (
    Bins,
    count_lower,
    count_upper,
    find_bins,
    find_magnitudes,
)
from ensembles.kernels.task_vectors.sign_election import Sign
from ensembles.kernels.task_vectors.trimmed_merge import merge_trimmed
from ensembles.registry import register
from ensembles.rules.passes import Pass
from ensembles.rules.table import RULES

Shares = float | Sequence[float]


def _find_bins(
    total: Counts, weights: Float64, *, density: Any = 0.09, gamma: Any = 0.01
) -> Bins:
    n_elements = total.sum(axis=1)
    kept = n_kept(density, n_elements)
    outliers = shares_of_members("gamma", gamma, len(total))
    shares = shares_of_members("density", density, len(total)) + outliers
    if (shares > 1).any():
        raise ValueError(
            "density and gamma must sum to at most 1, which leaves nothing to drop at "
            f"the other end, found density={density!r} and gamma={gamma!r}"
        )
    n_outliers = np.minimum((outliers * n_elements).astype(np.int64), n_elements - kept)
    largest = np.minimum(n_outliers + 1, n_elements)
    return find_bins(total, np.stack([n_outliers + kept, largest], axis=1))


def _find_ends(total: Counts, weights: Float64, *, state: Bins) -> Kept:
    low, high = find_magnitudes(total, state).T
    return Kept(np.ascontiguousarray(low), np.ascontiguousarray(high))


def _is_trimmed(density: Any = 0.09, gamma: Any = 0.01) -> bool:
    # True equals 1, and the passes refuse it.
    is_number = not isinstance(density, bool) and not isinstance(gamma, bool)
    return not (is_number and np.array_equal(density, 1) and np.array_equal(gamma, 0))


_PASSES = (
    Pass(count_upper, _find_bins, _is_trimmed, fused=True),
    Pass(count_lower, _find_ends, _is_trimmed, fused=True),
)


@register(RULES, passes=_PASSES, needs_base=True, signed=True, fused=True)
def breadcrumbs_linear(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Kept | None,
    density: Shares = 0.09,
    gamma: Shares = 0.01,
    normalize: bool = False,
    scale: float = 1.0,
    scope: Scope = "tensor",
) -> Array:
    """Task arithmetic of task vectors without outliers and small entries (breadcrumbs).

    Of each difference x[i] - base, the share ``gamma`` of entries with the largest
    magnitudes is dropped, the share ``density`` with the next magnitudes is kept, and
    the rest is dropped: d[i]. The result is ``base + scale * sum(w[i] d[i])``.

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
    density : float or sequence of float, above 0 and at most 1, default=0.09
        Share of the entries of each member that is kept, or one share for each member.
        Entries that equal the smallest or the largest kept one are kept too.
    gamma : float or sequence of float from 0 to 1, default=0.01
        Share of the entries with the largest magnitudes that is dropped, or one share
        for each member: one minus gamma of the paper, where beta is one minus density
        and gamma. Their sum is at most 1.
    normalize : bool, default=False
        Whether the sum is divided by the sum of the weights.
    scale : float, default=1.0
        Factor of the sum, alpha of the paper, which is chosen on validation data.
    scope : {"tensor", "model"}, default="tensor"
        Entries whose magnitudes are compared: those of each tensor, or of all float
        tensors of the model together.

    Raises
    ------
    ValueError
        If a parameter is not valid, or the weights sum to zero with ``normalize=True``.

    Notes
    -----
    Magnitudes are compared as in `ties`: with the precision of float32, and NaN the
    largest. NaN is kept; infinite entries are outliers. Numbers of entries are rounded
    down, and one is kept at least.

    A list has one value for each member. In mergekit, lists are gradients over the
    layers, and each model has a ``density`` of its own.

    The paper masks each layer, with beta about 90 % and gamma about 99 %. The authors'
    code masks each row, that is the last axis of a tensor, and keeps numbers. With
    distinct magnitudes, ``breadcrumbs`` of mergekit 0.1.5 with the same ``density`` and
    ``gamma`` is equal up to rounding. Where mergekit's shares sum to more than 1, it
    reduces ``gamma``, and with its default ``density`` of 1 it drops nothing: pass
    ``gamma=0``. It computes in the members' format.

    References
    ----------
    Davari & Belilovsky (2023), "Model breadcrumbs: scaling multi-task model merging
    with sparse masks", arXiv:2312.06795, section 3.
    """
    check_number("breadcrumbs_linear", "scale", scale)
    check_choice("breadcrumbs_linear", "scope", scope, SCOPES)
    divisor = weight_divisor("breadcrumbs_linear", weights, normalize)
    return merge_trimmed(
        stack,
        weights,
        base,
        None if state is None else (state.low, state.high),
        scale=scale,
        divisor=divisor,
        sign=None,
    )


@register(RULES, passes=_PASSES, needs_base=True, signed=True, fused=True)
def breadcrumbs_ties(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Kept | None,
    density: Shares = 0.09,
    gamma: Shares = 0.01,
    sign: Sign = "mass",
    zero_sum: Literal["zero", "positive"] = "zero",
    normalize: bool | Literal["count"] = True,
    scale: float = 1.0,
    scope: Scope = "tensor",
) -> Array:
    """Task vectors without outliers and small entries, merged where signs agree.

    Entries of each difference x[i] - base are dropped as in `breadcrumbs_linear`. Then
    each element elects a sign as in `ties`, and the result is ``base + scale * sum(w[i]
    d[i]) / sum(w[i])`` over the members whose entry has this sign.

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
    density : float or sequence of float, above 0 and at most 1, default=0.09
        Share of the entries of each member that is kept, see `breadcrumbs_linear`.
    gamma : float or sequence of float from 0 to 1, default=0.01
        Share of the entries with the largest magnitudes that is dropped, see
        `breadcrumbs_linear`.
    sign : {"mass", "unweighted_mass", "count"}, default="mass"
        How a sign is elected, see `ties`.
    zero_sum : {"zero", "positive"}, default="zero"
        Result where the votes for both signs are equal, up to rounding: the base, or
        the positive entries.
    normalize : bool or "count", default=True
        Divisor of the sum of agreeing weighted entries: True is the sum of the absolute
        weights of the agreeing members, ``"count"`` their number, False is 1.
    scale : float, default=1.0
        Factor of the merged entries.
    scope : {"tensor", "model"}, default="tensor"
        Entries whose magnitudes are compared: those of each tensor, or of all float
        tensors of the model together.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    Notes
    -----
    The notes of `breadcrumbs_linear` and of `ties` on magnitudes apply. With positive
    weights, ``normalize=False, zero_sum="positive"`` equals up to rounding
    ``breadcrumbs_ties`` of mergekit 0.1.5, which introduced the method.

    References
    ----------
    Davari & Belilovsky (2023), "Model breadcrumbs: scaling multi-task model merging
    with sparse masks", arXiv:2312.06795, section 3; Yadav et al. (2023),
    "TIES-merging: resolving interference when merging models", arXiv:2306.01708,
    section 4.
    """
    check_number("breadcrumbs_ties", "scale", scale)
    check_choice("breadcrumbs_ties", "scope", scope, SCOPES)
    check_choice("breadcrumbs_ties", "zero_sum", zero_sum, ("zero", "positive"))
    return merge_trimmed(
        stack,
        weights,
        base,
        None if state is None else (state.low, state.high),
        scale=scale,
        sign=sign,
        normalize=normalize,
        zero_sum=int(zero_sum == "positive"),
    )
