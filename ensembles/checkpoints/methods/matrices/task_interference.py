"""Merging of task matrices with little interference between tasks: `wudi`."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice, check_number
from ensembles.checkpoints.methods.matrices.singular_values import n_above, norm_of
from ensembles.checkpoints.methods.matrices.task_matrices import (
    EXCLUDE,
    Others,
    TaskMatrices,
    check_parameters,
    check_pattern,
    is_matrix,
    merge_matrices,
)
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.passes import Position
from ensembles.rules.table import RULES

Solver = Literal["adam", "exact"]

TRANSPOSED = r"coefs_|kernel$"  # matrices of scikit-learn's and Flax's layers
ROWS = 256  # rows of a matrix that Adam updates at a time; they do not depend on others
DECAY, SQUARE_DECAY, SMALL = 0.9, 0.999, 1e-8  # of Adam


@register(
    RULES,
    needs_base=True,
    signed=True,
    fused=True,
    unit="matrix",
    has_units=is_matrix,
    workspace=18,
)
def wudi(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    position: Position,
    scale: float = 1.0,
    solver: Solver = "adam",
    steps: int = 300,
    learning_rate: float = 1e-5,
    transposed: str = TRANSPOSED,
    others: Others = "mean",
    exclude: str = EXCLUDE,
) -> Array:
    """WUDI merging: base + scale M, where M acts on the inputs of each task as T[i].

    T[i] = weights[i] (members[i] - base), and for each matrix of a linear layer M
    minimizes the interference sum(|(M - T[i]) T[i]ᵀ|² / |T[i]|²). No data is needed:
    the rows of T[i], which are sums of gradients, approximately span the inputs of the
    layer in task i.

    M starts at sum(T[i]), and Adam takes a fixed number of steps along the gradient
    2 (M A - B), A = sum(T[i]ᵀ T[i] / |T[i]|²), B = sum(T[i] T[i]ᵀ T[i] / |T[i]|²). A
    step changes an entry by about ``learning_rate`` at most, whatever the size of the
    differences: with the defaults, which suit models of at least 100 million
    parameters, entries change by at most 0.003. The result for small networks that are
    trained with large learning rates is then nearly base + sum(T[i]); they need a
    larger rate, or ``solver="exact"``.

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
    solver : {"adam", "exact"}, default="adam"
        "adam" is the method of the paper, which stops before the minimum. "exact" is
        the minimizer B A⁺ of least norm, the limit of many steps, in one step: RegMean
        with T[i]ᵀ T[i] / |T[i]|² in place of the Gram matrices of inputs.
    steps : int, default=300
        Steps of Adam. FusionBench takes 400 for CLIP models.
    learning_rate : float, default=1e-5
        Learning rate of Adam. The authors use 2e-5 for RoBERTa.
    transposed : str
        Regular expression of the names of tensors whose matrices have a row for each
        input, as scikit-learn's and Flax's do, and not for each output, as those of
        `torch.nn.Linear`. Pass "c_attn|c_fc|c_proj" for GPT-2, and "experts" for the
        fused experts of Llama 4 and GPT-OSS. Empty for none. The default is
        ``"coefs_|kernel$"``.
    others : {"mean", "sum", "base"}, default="mean"
        Merged differences of all tensors that are not matrices: the mean of the T[i],
        their sum, or 0.
    exclude : str
        Regular expression of the names of tensors with two or three axes that are not
        matrices of linear layers. The default has embeddings, heads over a vocabulary
        and biases. Empty for none.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    Notes
    -----
    All tensors with two axes are matrices unless ``exclude`` matches their names, and
    with three axes if "expert" is in the name; each expert is a matrix of its own. The
    kernels of convolutions are not, as in the published implementations.

    Variants: the authors' code for vision transformers merges the matrices of attention
    and feed-forward layers, and leaves all other tensors as they are in the base, which
    is ``others="base"``. FusionBench's ``WUDIMerging`` is ``steps=400, exclude=""``;
    both divide by zero if a member does not differ from the base in a layer. Here such
    a member does not count in it.

    M A costs 2 n_outputs n_inputs² operations a step, less where the matrix has many
    more inputs than all members have outputs. Results are the same for any number of
    threads; other processors may differ in the last bits.

    References
    ----------
    Cheng et al. (2025), "Guiding data-free model merging via task vectors" (the
    subtitle), ICML, equation 12 and algorithm 1, arXiv:2503.08099.
    """
    check_parameters("wudi", scale, others)
    _check(solver, steps, learning_rate, transposed)
    is_transposed = bool(transposed and re.search(transposed, position.name))

    def merge(tasks: TaskMatrices) -> Float64:
        tasks = replace(tasks, is_transposed=is_transposed)
        start, target, factors = _system(tasks)
        if solver == "exact":
            merged = _minimizer(target, factors)
        else:
            merged = _adam(start, target, factors, steps, learning_rate)
        return merged.T if is_transposed else merged

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


def _system(tasks: TaskMatrices) -> tuple[Float64, Float64, list[Float64]]:
    """Sum of the task matrices, B, and one or two factors of A.

    Two have fewer entries, if all tasks together have fewer rows than columns.
    """
    n_rows, n_columns = tasks.shape
    start, target = np.zeros((2, n_rows, n_columns))
    is_wide = len(tasks) * n_rows < n_columns
    units, gram = [], np.zeros((0, 0) if is_wide else (n_columns, n_columns))
    for task in tasks:
        start += task
        unit = task / (norm_of(task) or 1.0)
        if is_wide:
            target += task @ unit.T @ unit
            units.append(unit)
        else:
            square = unit.T @ unit
            target += task @ square
            gram += square
    if is_wide:
        rows = np.vstack(units)
        return start, target, [rows.T, rows]
    return start, target, [gram]


def _minimizer(target: Float64, factors: list[Float64]) -> Float64:
    """B A⁺, from the eigenvectors of A."""
    if len(factors) == 1:
        values, vectors = np.linalg.eigh(factors[0])
    else:
        rows = factors[1]
        values, vectors = np.linalg.eigh(rows @ rows.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    counted = n_above(values, values[:1].sum(), 0.0, len(values))
    values, vectors = values[:counted], vectors[:, :counted]
    if len(factors) == 2:
        vectors = factors[0] @ vectors / np.sqrt(values)
    return np.asarray(target @ vectors / values @ vectors.T)


def _adam(
    point: Float64,
    target: Float64,
    factors: list[Float64],
    steps: int,
    learning_rate: float,
) -> Float64:
    """Steps of Adam along the gradient 2 (M A - B) from a point, in its memory."""
    for first, last in chunks(len(point), ROWS):
        rows, goal = point[first:last], target[first:last]
        mean, square = np.zeros((2, *rows.shape))
        for step in range(1, steps + 1):
            gradient = rows
            for factor in factors:
                gradient = gradient @ factor
            gradient -= goal
            gradient *= 2
            mean *= DECAY
            mean += (1 - DECAY) * gradient
            gradient *= gradient
            square *= SQUARE_DECAY
            square += (1 - SQUARE_DECAY) * gradient
            size = np.sqrt(square, out=gradient)
            size /= math.sqrt(1 - SQUARE_DECAY**step)
            size += SMALL
            np.divide(mean, size, out=size)
            size *= learning_rate / (1 - DECAY**step)
            rows -= size
    return point


def _check(solver: Any, steps: Any, learning_rate: Any, transposed: Any) -> None:
    check_choice("wudi", "solver", solver, get_args(Solver))
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 0:
        raise ValueError(
            f"steps of 'wudi' must be a non-negative integer, found {steps!r}"
        )
    check_number("wudi", "learning_rate", learning_rate, low=0.0)
    check_pattern("transposed", transposed)
