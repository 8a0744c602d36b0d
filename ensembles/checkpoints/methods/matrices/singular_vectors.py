"""Merging of task matrices by their singular vectors: `tsv`."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_number
from ensembles.checkpoints.methods.matrices.singular_values import (
    leading,
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
    workspace=14,
)
def tsv(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    scale: float = 1.0,
    density: float | None = None,
    others: Others = "mean",
    exclude: str = EXCLUDE,
    epsilon: float = 0.0,
) -> Array:
    """TSV-Merge: base plus the sum of tasks with orthogonal singular vectors.

    T[i] = weights[i] (members[i] - base) = U[i] S[i] V[i]. For each matrix of a linear
    layer the largest singular values of each T[i] are kept, with their vectors, and
    concatenated to U, S and V. Columns of U that belong to different tasks are not
    orthogonal, which is the interference between tasks; so U is replaced by the
    nearest matrix with orthonormal columns, V by the nearest with orthonormal rows, and
    the result is base + scale U S V.

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
        Factor of the merged differences.
    density : float in [0, 1], or None, default=None
        Fraction of the singular values that each task keeps, at least one. None is
        1 / n_members, as in the paper. With more than that, vectors of tasks cannot all
        be orthogonal.
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

    Notes
    -----
    All tensors with two axes are matrices unless ``exclude`` matches their names, and
    with three axes if "expert" is in the name; each expert is a matrix of its own. The
    kernels of convolutions are not, as in the published implementations.

    The authors' ``TSVM`` and FusionBench's ``TaskSingularVectorMerging`` take all
    tensors with two axes, the former without ``text_projection`` and the latter with
    ``exclude=""``; their variant without loss of singular values is ``density=1``.
    Vectors that several tasks share exactly count once; the published code replaces
    their copies by arbitrary vectors. It also drops the differences of a matrix that
    has fewer rows or columns than there are members.

    Results are the same for any number of threads; other processors may differ in the
    last bits.

    References
    ----------
    Gargiulo et al. (2025), "Task singular vectors: reducing task interference in model
    merging", CVPR, algorithm 1, arXiv:2412.00081.
    """
    check_parameters("tsv", scale, others, epsilon)
    if density is not None:
        check_number("tsv", "density", density, low=0.0, high=1.0)

    def merge(tasks: TaskMatrices) -> Float64:
        return _orthogonalized_sum(tasks, density, epsilon)

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


def _orthogonalized_sum(
    tasks: TaskMatrices, density: float | None, epsilon: float
) -> Float64:
    """Sum of the leading singular values of each task times orthogonal vectors."""
    rank = min(tasks.shape)
    n_own = rank // len(tasks) if density is None else int(density * rank)
    parts = [leading(task, max(n_own, 1), epsilon=epsilon) for task in tasks]
    left, values, right = orthogonalized(parts, epsilon)
    return np.asarray(left * values @ right)
