"""DELLA: elements of task vectors are dropped at random, small ones more often."""

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
    epsilon: Shares = 0.15,
    seed: int = 0,
) -> Float64:
    return absolute_sums(stack, base, Dropping(position, density, epsilon, None, seed))


WORKSPACE = 6  # arrays with the size of a row: base, sum, probabilities, ranks, masks
_PASSES = (Pass(_sums, l1_factors, needs_sums, fused=False),)


@register(
    RULES,
    passes=_PASSES,
    needs_base=True,
    signed=True,
    symmetric=False,
    fused=True,
    unit="row",
    workspace=WORKSPACE,
)
def della_linear(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    state: Float64 | None,
    density: Shares = 0.5,
    epsilon: Shares = 0.15,
    rescale: Rescale = "expected",
    seed: int = 0,
    normalize: bool = False,
    scale: float = 1.0,
) -> Array:
    """Task arithmetic of task vectors, small entries dropped more often (MAGPRUNE).

    Computes ``base + scale * sum(w[i] m[i] (x[i] - base) / p[i])``. An entry of a mask
    m[i] is 1 with its probability p[i], and 0 otherwise. Probabilities grow with the
    rank r of the absolute difference in its row, from 0 for the smallest of n to n - 1:
    ``p = density - epsilon + 2 * epsilon * r / (n - 1)``. Differences whose magnitudes
    have the same 8 significant bits share the mean of their ranks. As in `dare_linear`,
    the expectation is the one of `task_arithmetic`; the variance is smaller for large
    differences.

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
        Mean probability of keeping an entry, or one for each member: 1 minus the drop
        rate p of the paper. 1 keeps all, whatever ``epsilon`` is.
    epsilon : float or sequence of float, default=0.15
        Half the range of the probabilities in a row, or one for each member: half of
        the paper's ε and of the authors' ``window_size``. ``density - epsilon`` must be
        above 0, and ``density + epsilon`` at most 1. With 0 it is `dare_linear`.
    rescale : {"expected", "l1"} or None, default="expected"
        Factor of the entries that are kept. ``"expected"`` is 1 / p of the entry, so
        that the expectation is unchanged; ``"l1"`` makes the sum of absolute
        differences of each member the same as before in each tensor; None is 1.
    seed : int, default=0
        Seed of the masks, see `dare_linear`.
    normalize : bool, default=False
        Whether the sum is divided by the sum of the weights.
    scale : float, default=1.0
        Factor of the sum, λ of the paper.

    Raises
    ------
    ValueError
        If a parameter is not valid, or the weights sum to zero with ``normalize=True``.

    Notes
    -----
    A row is the last axis of a tensor: the incoming parameters of a neuron in a linear
    layer of PyTorch, and the outgoing ones where matrices are transposed, as in GPT-2.
    A vector, such as a bias, is one row, and an entry without others in its row is kept
    with probability ``density``. Rows are combined whole: a row that is larger than the
    memory budget takes more memory, which the plan reports.

    Magnitudes are truncated to 8 significant bits, the precision of bfloat16, so that
    ranks are found by counting. Probabilities differ from those of exact ranks by at
    most ``2 * epsilon`` times the share of the row that has the same 8 bits, and the
    expectation does not.

    A list has one value for each member. In mergekit, lists are gradients over the
    layers, and each model has a ``density`` of its own.

    Published implementations draw other random numbers and rank equal differences in
    any order. With the same masks and ranks the results are equal up to rounding:

    ==================== ========================================================
    implementation       parameters
    ==================== ========================================================
    authors' code        the default with ``epsilon`` of half its ``window_size``
    mergekit 0.1.5       ``rescale="l1"``; its ``rescale: false`` is None, its
                         ``lambda`` is ``scale``
    ==================== ========================================================

    mergekit multiplies all kept entries of a member by the same factor, which does not
    keep the expectation: large differences grow and small ones shrink. It ranks along
    the second axis, which is not the last of tensors with three or more axes, and does
    not accept rows of one entry. On GPUs, and in bfloat16, it computes ranks and sums
    in the members' format: bfloat16 rounds the ranks themselves to 8 bits, and in
    float16 sums above 65,504 are infinite and make the tensor NaN. Here differences,
    ranks and sums are float64.

    References
    ----------
    Deep, Bhardwaj & Poria (2024), "DELLA-merging: reducing interference in model
    merging through magnitude-based sampling", arXiv:2406.11617, section 3.
    """
    check_number("della_linear", "scale", scale)
    divisor = weight_divisor("della_linear", weights, normalize)
    dropping = Dropping(position, density, epsilon, rescale, seed, state)
    return dropping.add(stack, base, weights, scale=scale / divisor)


@register(
    RULES,
    passes=_PASSES,
    needs_base=True,
    signed=True,
    symmetric=False,
    fused=True,
    unit="row",
    workspace=WORKSPACE,
)
def della_ties(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    state: Float64 | None,
    density: Shares = 0.5,
    epsilon: Shares = 0.15,
    rescale: Rescale = "expected",
    seed: int = 0,
    sign: Sign = "mass",
    zero_sum: Literal["zero", "positive"] = "zero",
    normalize: bool | Literal["count"] = True,
    scale: float = 1.0,
) -> Array:
    """DELLA: task vectors, small entries dropped more often, merged by their signs.

    As in `della_linear`, entries of each difference x[i] - base are dropped at random
    by their rank in the row and the others rescaled. Then each element elects a sign,
    and the result is ``base + scale * mean(w[i] d[i])`` over the members whose entry
    has this sign.

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
        Mean probability of keeping an entry, see `della_linear`.
    epsilon : float or sequence of float, default=0.15
        Half the range of the probabilities in a row, see `della_linear`. With 0 it is
        `dare_ties`.
    rescale : {"expected", "l1"} or None, default="expected"
        Factor of the entries that are kept, see `della_linear`.
    seed : int, default=0
        Seed of the masks.
    sign : {"mass", "unweighted_mass", "count"}, default="mass"
        How a sign is elected, see `dare_ties`.
    zero_sum : {"zero", "positive"}, default="zero"
        Result where the votes for both signs are equal, see `dare_ties`.
    normalize : bool or "count", default=True
        Divisor of the sum of agreeing weighted differences: True is the sum of the
        absolute weights of the agreeing members, ``"count"`` their number, False is 1.
    scale : float, default=1.0
        Factor of the merged differences, λ of the paper.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    Notes
    -----
    With positive weights, the same masks and ``zero_sum="positive"`` the results are
    equal up to rounding to the authors' code, with ``epsilon`` of half its
    ``window_size``, and with ``rescale="l1"`` to ``della`` of mergekit 0.1.5. The notes
    of `della_linear` on rows and of `dare_ties` on the expectation apply.

    References
    ----------
    Deep, Bhardwaj & Poria (2024), "DELLA-merging: reducing interference in model
    merging through magnitude-based sampling", arXiv:2406.11617, section 3.
    """
    check_number("della_ties", "scale", scale)
    check_choice("della_ties", "zero_sum", zero_sum, ("zero", "positive"))
    dropping = Dropping(position, density, epsilon, rescale, seed, state)
    return dropping.merge(
        stack,
        base,
        weights,
        scale=scale,
        sign=sign,
        normalize=normalize,
        zero_sum=int(zero_sum == "positive"),
    )
