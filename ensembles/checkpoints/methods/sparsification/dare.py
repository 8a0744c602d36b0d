"""DARE: random elements of task vectors are dropped, and the others rescaled."""

from __future__ import annotations

from typing import Literal

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import (
    check_choice,
    check_number,
    weight_divisor,
)
from ensembles.checkpoints.methods.sparsification.random_dropping import (
    Dropping,
    Rescale,
    Shares,
    absolute_sums,
    l1_factors,
    needs_sums,
)
from ensembles.kernels.task_vectors.sign_election import Sign
from ensembles.registry import register
from ensembles.rules.passes import Pass, Position
from ensembles.rules.table import RULES


def _sums(
    stack: Float64,
    *,
    base: Float64,
    position: Position,
    density: Shares = 0.5,
    seed: int = 0,
) -> Float64:
    return absolute_sums(stack, base, Dropping(position, density, 0.0, None, seed))


_PASSES = (Pass(_sums, l1_factors, needs_sums, fused=False),)


@register(
    RULES, passes=_PASSES, needs_base=True, signed=True, symmetric=False, fused=True
)
def dare_linear(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    state: Float64 | None,
    density: Shares = 0.5,
    rescale: Rescale = "expected",
    seed: int = 0,
    normalize: bool = False,
    scale: float = 1.0,
) -> Array:
    """Task arithmetic of randomly dropped, rescaled task vectors (DARE).

    Computes ``base + scale * sum(w[i] m[i] (x[i] - base) / density)``, where each entry
    of the random masks m[i] is 1 with the probability ``density``, and 0 otherwise. The
    expectation of the result is the one of `task_arithmetic`, and the variance of an
    entry is ``(1 / density - 1) sum((scale w[i] (x[i] - base))**2)``: DARE makes task
    vectors sparse, which adds noise. With ``density=1`` it is task arithmetic.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Weight of each task vector, of any sign; 1 by default.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    position : Position
        Position of the elements in their tensor, which `Rule` passes: masks depend on
        ``seed``, the name of the tensor, the member's index and the element's index.
    state : ndarray of shape (n_members,) or None
        Factors of the members with ``rescale="l1"``, which `Rule` computes.
    density : float or sequence of float, from 2**-32 to 1, default=0.5
        Probability of keeping an entry, or one for each member: 1 minus the drop rate p
        of the paper. It is rounded up to a multiple of 2**-32.
    rescale : {"expected", "l1"} or None, default="expected"
        Factor of the entries that are kept. ``"expected"`` is 1 / density, so that the
        expectation is unchanged; ``"l1"`` makes the sum of absolute differences of each
        member the same as before in each tensor; None is 1.
    seed : int, default=0
        Seed of the masks. Another seed gives another merge of the same quality on
        average; the same seed gives the same bytes, for any threads, memory or shards.
    normalize : bool, default=False
        Whether the sum is divided by the sum of the weights. With equal weights this is
        the average of the sparse members.
    scale : float, default=1.0
        Factor of the sum, the scaling coefficient λ of task arithmetic.

    Raises
    ------
    ValueError
        If a parameter is not valid, or the weights sum to zero with ``normalize=True``.

    Notes
    -----
    The order of the members matters, because masks depend on their index: a member of
    weight 0 has no effect, but without it the members after it have other masks. NaN
    passes through, also where it is dropped; an infinity that is dropped becomes NaN.

    Published implementations draw other random numbers; with the same masks the results
    are equal up to rounding:

    ==================== ========================================================
    implementation       parameters
    ==================== ========================================================
    authors' code        the default; its ``weight_mask_rate`` is 1 - density;
                         ``normalize=True`` for ``average_merging``
    peft 0.21            the default, on the factors of adapters
    mergekit 0.1.5       ``rescale="l1"``; its ``rescale: false`` is None, its
                         ``lambda`` is ``scale``
    ==================== ========================================================

    A list has one value for each member. In mergekit, lists are gradients over the
    layers, and each model has a ``density`` of its own.

    mergekit omits the rescaling of tensors with a sum of absolute differences under
    1e-7, and computes in the members' format. In tensors with few or heavy-tailed
    differences, the factors of ``"l1"`` vary much around 1 / density.

    References
    ----------
    Yu et al. (2023), "Language models are Super Mario: absorbing abilities from
    homologous models as a free lunch", arXiv:2311.03099, section 3.2.
    """
    check_number("dare_linear", "scale", scale)
    divisor = weight_divisor("dare_linear", weights, normalize)
    dropping = Dropping(position, density, 0.0, rescale, seed, state)
    return dropping.add(stack, base, weights, scale=scale / divisor)


@register(
    RULES, passes=_PASSES, needs_base=True, signed=True, symmetric=False, fused=True
)
def dare_ties(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    state: Float64 | None,
    density: Shares = 0.5,
    rescale: Rescale = "expected",
    seed: int = 0,
    sign: Sign = "mass",
    zero_sum: Literal["zero", "positive"] = "zero",
    normalize: bool | Literal["count"] = True,
    scale: float = 1.0,
) -> Array:
    """Randomly dropped, rescaled task vectors, merged where their signs agree.

    As in `dare_linear`, entries of each difference x[i] - base are dropped at random
    and the others rescaled. Then each element elects a sign, as in TIES, and the result
    is ``base + scale * mean(w[i] d[i])`` over the members whose entry has this sign.
    TIES itself keeps the entries of largest magnitude instead of random ones.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Weight of each task vector, of any sign; 1 by default.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    position : Position
        Position of the elements in their tensor, which `Rule` passes, see
        `dare_linear`.
    state : ndarray of shape (n_members,) or None
        Factors of the members with ``rescale="l1"``, which `Rule` computes.
    density : float or sequence of float, from 2**-32 to 1, default=0.5
        Probability of keeping an entry, see `dare_linear`.
    rescale : {"expected", "l1"} or None, default="expected"
        Factor of the entries that are kept, see `dare_linear`.
    seed : int, default=0
        Seed of the masks.
    sign : {"mass", "unweighted_mass", "count"}, default="mass"
        How a sign is elected: the sign of the sum of weighted differences, of the sum
        of differences without weights, or the more frequent sign. Dropped entries have
        no sign.
    zero_sum : {"zero", "positive"}, default="zero"
        Result where the votes for both signs are equal, up to rounding: the base, or
        the positive differences.
    normalize : bool or "count", default=True
        Divisor of the sum of agreeing weighted differences: True is the sum of the
        absolute weights of the agreeing members, ``"count"`` their number, False is 1.
    scale : float, default=1.0
        Factor of the merged differences, λ of TIES.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    Notes
    -----
    Members that dropped an entry do not reduce the mean over the members that kept it,
    so that the expectation is larger than without dropping: for n identical members
    ``(1 - (1 - density)**n) / density`` times the difference. A ``scale`` below 1, or
    ``rescale=None``, compensates for it. Published implementations, on the same masks:

    ==================== ========================================================
    implementation       parameters
    ==================== ========================================================
    authors' code        the default; afterwards it keeps the largest 20 % of all
                         entries of a member, which changes nothing with a density
                         of 0.2 or less
    peft 0.21            ``sign="unweighted_mass", normalize="count",
                         zero_sum="positive"``, on the factors of adapters;
                         ``majority_sign_method="frequency"`` is ``sign="count"``
    mergekit 0.1.5       ``rescale="l1", normalize=False, zero_sum="positive"``
    ==================== ========================================================

    This holds for positive weights. Where votes are equal, the authors' code elects the
    more frequent sign of the whole model.

    References
    ----------
    Yu et al. (2023), "Language models are Super Mario: absorbing abilities from
    homologous models as a free lunch", arXiv:2311.03099, section 3.3; Yadav et al.
    (2023), "TIES-merging: resolving interference when merging models",
    arXiv:2306.01708, section 4.
    """
    check_number("dare_ties", "scale", scale)
    check_choice("dare_ties", "zero_sum", zero_sum, ("zero", "positive"))
    dropping = Dropping(position, density, 0.0, rescale, seed, state)
    return dropping.merge(
        stack,
        base,
        weights,
        scale=scale,
        sign=sign,
        normalize=normalize,
        zero_sum=int(zero_sum == "positive"),
    )
