"""Task matrices: which tensors are matrices, and how all others are merged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice, check_number
from ensembles.checkpoints.methods.matrices.blas import one_blas_thread
from ensembles.kernels.casting import widen
from ensembles.kernels.task_vectors.sums import add_task_vectors
from ensembles.parallel import chunks
from ensembles.rules.passes import Position

Others = Literal["mean", "sum", "base"]

# Tensors with two axes that are not matrices of linear layers: embeddings, heads over a
# vocabulary, stacks of biases, tables of positions, states of Mamba.
EXCLUDE = (
    r"embed|wte|wpe|lm_head|_projection|bias|A_log|(^|\.)shared\.weight|^output\.weight"
)
EXPERTS = "expert"  # in the name of a tensor that has a matrix for each expert


@dataclass(frozen=True)
class TaskMatrices:
    """Differences of the members from the base, times their weights, for one matrix.

    Each iteration computes them anew, one after the other, to have few in memory.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_rows, n_columns)
        Matrix of each member.
    weights : ndarray of shape (n_members,)
        Weight of each member; members with weight 0 are left out.
    base : ndarray of shape (n_rows, n_columns)
        Matrix of the base.
    is_transposed : bool, default=False
        Whether the differences are transposed.
    """

    stack: Array
    weights: Float64
    base: Array
    is_transposed: bool = False

    def __len__(self) -> int:
        return int(np.count_nonzero(self.weights))

    def __iter__(self) -> Iterator[Float64]:
        base = widen(self.base)
        for member, weight in zip(self.stack, self.weights, strict=True):
            if weight:
                difference = widen(member) - base
                difference *= weight
                yield difference.T if self.is_transposed else difference

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a difference."""
        n_rows, n_columns = self.base.shape
        return (n_columns, n_rows) if self.is_transposed else (n_rows, n_columns)

    def sum(self) -> Float64:
        """Sum of the differences, in the order of the members."""
        total = np.zeros(self.shape)
        for task in self:
            total += task
        return total


def merge_matrices(
    merge: Callable[[TaskMatrices], Float64],
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    scale: float,
    others: Others,
    exclude: str,
) -> Array:
    """Base plus the scaled merge of each matrix of a tensor.

    Parameters
    ----------
    merge : callable (tasks) -> ndarray of shape (n_rows, n_columns)
        Merges `TaskMatrices`, which are finite.
    stack : ndarray of shape (n_members, size)
        The whole tensor of each member, or some of its matrices.
    weights : ndarray of shape (n_members,)
        Weight of each member.
    base : ndarray of shape (size,)
        The same part of the base.
    position : Position
        Name and shape of the tensor.
    scale : float
        Factor of the merged differences.
    others : {"mean", "sum", "base"}
        How tensors that are not matrices are merged.
    exclude : str
        Regular expression of the names of tensors that are not matrices.

    Returns
    -------
    ndarray of shape (size,), float64 or the format of the stack
        NaN in matrices with NaN or infinity.
    """
    if not is_matrix(position, exclude):
        if others == "base":
            return base.copy()
        divisor = float(np.count_nonzero(weights)) if others == "mean" else 1.0
        return add_task_vectors(stack, weights, base, scale=scale, divisor=divisor)
    n_rows, n_columns = position.shape[-2:]
    out = np.empty(base.size)
    for start, stop in chunks(base.size, max(n_rows * n_columns, 1)):
        ancestor = base[start:stop].reshape(n_rows, n_columns)
        members = stack[:, start:stop].reshape(len(stack), n_rows, n_columns)
        tasks = TaskMatrices(members, weights, ancestor)
        with one_blas_thread():
            is_finite = all(np.isfinite(task).all() for task in tasks)
            merged = merge(tasks) if is_finite else np.full(tasks.shape, np.nan)
        out[start:stop] = (widen(ancestor) + scale * merged).reshape(-1)
    return out


def is_matrix(position: Position, exclude: str = EXCLUDE) -> bool:
    """Whether a tensor consists of matrices of linear layers.

    Parameters
    ----------
    position : Position
        Name and shape of the tensor.
    exclude : str
        Regular expression of the names of tensors that are not matrices; empty for
        none.

    Returns
    -------
    bool
        True for tensors with two axes, and with three if the name has "expert".

    Raises
    ------
    ValueError
        If ``exclude`` is not a regular expression.
    """
    check_pattern("exclude", exclude)
    n_axes, name = len(position.shape), position.name
    if exclude and re.search(exclude, name):
        return False
    return n_axes == 2 or (n_axes == 3 and EXPERTS in name)


def check_parameters(rule: str, scale: Any, others: Any, epsilon: Any = 0.0) -> None:
    """Raise if a parameter that the rules for matrices share is not valid.

    Parameters
    ----------
    rule : str
        Name of the rule, for messages.
    scale, others, epsilon : object
        Parameters of the rule.

    Raises
    ------
    ValueError
        If a value is not allowed.
    """
    check_number(rule, "scale", scale)
    check_choice(rule, "others", others, get_args(Others))
    check_number(rule, "epsilon", epsilon, low=0.0, high=1.0)


def check_pattern(name: str, value: Any) -> None:
    """Raise if a parameter is not a regular expression.

    Parameters
    ----------
    name : str
        Name of the parameter.
    value : object
        Its value.

    Raises
    ------
    ValueError
        If the value is not a string, or not a valid regular expression.
    """
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{name} must be a regular expression of tensor names, found {value!r}: "
            f"{error}"
        ) from None
