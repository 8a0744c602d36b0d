"""Merging of task matrices to equal singular values: `iso_c` and `iso_cts`."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_number
from ensembles.checkpoints.methods.matrices.singular_values import (
    largest_of,
    leading,
    orthogonal_factor,
    orthogonalized,
)
from ensembles.checkpoints.methods.matrices.task_matrices import (
    EXCLUDE,
    Others,
    TaskMatrices,
    check_parameters,
    is_matrix,
    merge_matrices,
)
from ensembles.registry import register
from ensembles.rules.passes import Position
from ensembles.rules.table import RULES


@register(
    RULES,
    needs_base=True,
    signed=True,
    fused=True,
    unit="matrix",
    has_units=is_matrix,
    workspace=10,
)
def iso_c(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    scale: float = 1.0,
    others: Others = "mean",
    exclude: str = EXCLUDE,
    epsilon: float = 0.0,
) -> Array:
    """Isotropic merging: base plus the sum of tasks, with equal singular values.

    T[i] = weights[i] (members[i] - base). For each matrix of a linear layer, with
    sum(T[i]) = U S V, the result is base + scale * mean(S) U V: directions that few
    tasks use count as much as directions that all share.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Factor of each task matrix; a negative one removes a task.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    position : Position
        Name and shape of the tensor, which `Rule` passes.
    scale : float, default=1.0
        Factor of the merged differences, which the authors choose on validation
        data.
    others : {"mean", "sum", "base"}, default="mean"
        Merged differences of all tensors that are not matrices: the mean of the T[i],
        their sum, or 0.
    exclude : str
        Regular expression of the names of tensors with two or three axes that are not
        matrices of linear layers. The default has embeddings, heads over a vocabulary
        and biases. Empty for none.
    epsilon : float, default=0.0
        Singular values up to this fraction of the largest count as zero. Those within
        rounding error of float64 always do.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    See Also
    --------
    iso_cts : Some directions are taken from each task.

    Notes
    -----
    All tensors with two axes are matrices unless ``exclude`` matches their names, and
    with three axes if "expert" is in the name; each expert is a matrix of its own. The
    kernels of convolutions are not, as in the published implementations.

    The authors' ``iso_c`` takes all tensors with two axes but ``text_projection``, and
    FusionBench's ``ISO_C_Merge`` is ``exclude=""``. If the sum does not have full rank,
    as after merging LoRA adapters, both give mean(S) to arbitrary directions, in which
    no member differs from the base; here these stay 0. In directions with differences
    that come from rounding alone, as of bfloat16 checkpoints, raise ``epsilon`` above
    their size to the same end.

    Results are the same for any number of threads; other processors may differ in the
    last bits.

    References
    ----------
    Marczak et al. (2025), "No task left behind: isotropic model merging with common and
    task-specific subspaces", ICML, section 4.1, arXiv:2502.04959.
    """
    check_parameters("iso_c", scale, others, epsilon)

    def merge(tasks: TaskMatrices) -> Float64:
        values, factor = orthogonal_factor(tasks.sum(), epsilon)
        return np.asarray(values.mean() * factor)

    return merge_matrices(
        merge,
        stack,
        weights,
        base=base,
        position=position,
        scale=scale,
        others=others,
        exclude=exclude,
    )


@register(
    RULES,
    needs_base=True,
    signed=True,
    fused=True,
    unit="matrix",
    has_units=is_matrix,
    workspace=16,
)
def iso_cts(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    scale: float = 1.0,
    common_fraction: float = 0.8,
    others: Others = "mean",
    exclude: str = EXCLUDE,
    epsilon: float = 0.0,
) -> Array:
    """Isotropic merging of common and task-specific directions, Iso-CTS.

    T[i] = weights[i] (members[i] - base). For each matrix of a linear layer, S has the
    largest singular values of sum(T[i]), and in the remaining places those of each task
    outside of the span of their left vectors, the same number from each. The vectors of
    all are replaced by the nearest orthonormal ones, U and V, and the result is
    base + scale * mean(S) U V.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Factor of each task matrix; a negative one removes a task.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    position : Position
        Name and shape of the tensor, which `Rule` passes.
    scale : float, default=1.0
        Factor of the merged differences, which the authors choose on validation
        data.
    common_fraction : float in [0, 1], default=0.8
        Fraction of the singular values that come from the sum. It is rounded so that
        the rest can be divided by the number of members.
    others : {"mean", "sum", "base"}, default="mean"
        Merged differences of all tensors that are not matrices: the mean of the T[i],
        their sum, or 0.
    exclude : str
        Regular expression of the names of tensors with two or three axes that are not
        matrices of linear layers. The default has embeddings, heads over a vocabulary
        and biases. Empty for none.
    epsilon : float, default=0.0
        Singular values up to this fraction of the largest count as zero. Those within
        rounding error of float64 always do.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    See Also
    --------
    iso_c : All directions are those of the sum.

    Notes
    -----
    All tensors with two axes are matrices unless ``exclude`` matches their names, and
    with three axes if "expert" is in the name; each expert is a matrix of its own. The
    kernels of convolutions are not, as in the published implementations.

    The authors' ``iso_cts`` takes all tensors with two axes but ``text_projection``,
    and FusionBench's ``ISO_CTS_Merge`` is ``exclude=""``. Directions in which neither
    the sum nor the task differs from the base are left out; theirs are arbitrary.

    Results are the same for any number of threads; other processors may differ in the
    last bits.

    References
    ----------
    Marczak et al. (2025), "No task left behind: isotropic model merging with common and
    task-specific subspaces", ICML, section 4.2, arXiv:2502.04959.
    """
    check_parameters("iso_cts", scale, others, epsilon)
    check_number("iso_cts", "common_fraction", common_fraction, low=0.0, high=1.0)

    def merge(tasks: TaskMatrices) -> Float64:
        return _with_task_subspaces(tasks, common_fraction, epsilon)

    return merge_matrices(
        merge,
        stack,
        weights,
        base=base,
        position=position,
        scale=scale,
        others=others,
        exclude=exclude,
    )


def _with_task_subspaces(
    tasks: TaskMatrices, common_fraction: float, epsilon: float
) -> Float64:
    """Leading directions of the sum and of each task's rest, of equal size."""
    rank = min(tasks.shape)
    n_common, n_own = subspace_sizes(rank, len(tasks), common_fraction)
    parts = [leading(tasks.sum(), n_common, epsilon=epsilon)]
    common = parts[0].left
    for task in tasks:
        rest = task - common @ (common.T @ task)
        largest = largest_of(task)
        parts.append(leading(rest, n_own, epsilon=epsilon, largest=largest))
    left, values, right = orthogonalized(parts, epsilon)
    return np.asarray(values.sum() / max(rank, 1) * left @ right)


def subspace_sizes(rank: int, n_tasks: int, common_fraction: float) -> tuple[int, int]:
    """Dimensions of the common subspace, and of the subspace of each task.

    Parameters
    ----------
    rank : int
        Smaller side of the matrix, which is the sum of all dimensions.
    n_tasks : int
        Number of tasks.
    common_fraction : float
        Wanted dimension of the common subspace, as a fraction of ``rank``.

    Returns
    -------
    n_common, n_own : int
    """
    n_own = round((rank - int(rank * common_fraction)) / n_tasks)
    n_own = min(n_own, rank // n_tasks)  # rounded up, they could exceed the rank
    return rank - n_own * n_tasks, n_own
