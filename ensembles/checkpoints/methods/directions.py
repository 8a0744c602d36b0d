"""Spherical interpolation of task vectors, added to the base."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice
from ensembles.kernels.casting import narrow, widen
from ensembles.kernels.gram import difference_gram
from ensembles.kernels.task_vectors.sums import add_task_vectors
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.arcs import (
    PIECE_SIZE,
    VECTORS,
    Vectors,
    column_coefficients,
    column_sums,
    combine_columns,
    flattens,
    has_vectors,
    interpolate_rows,
    takes_columns,
    whole_rows,
)
from ensembles.rules.passes import Pass, Position
from ensembles.rules.spherical import directional_coefficients, slerp_coefficients
from ensembles.rules.table import RULES


def _coefficients(
    total: Float64, weights: Float64, *, normalize: bool = True, eps: float = 0.0
) -> Float64:
    """Coefficients of the task vectors; 0 for members without weight."""
    counted = weights != 0
    coefficients = np.zeros(len(weights))
    coefficients[counted] = directional_coefficients(
        total[np.ix_(counted, counted)], weights[counted], normalize=normalize, eps=eps
    )
    return coefficients


def _column_sums(
    stack: Float64, *, base: Float64, position: Position, total: Float64 | None
) -> Float64:
    return column_sums(stack - base, position=position, total=total)


@register(
    RULES,
    passes=[
        Pass(difference_gram, slerp_coefficients, flattens, fused=True),
        Pass(_column_sums, column_coefficients, takes_columns, fused=False),
    ],
    needs_base=True,
    weight_sum_matters=False,
    n_members=2,
    fused=True,
    unit="row",
    has_units=has_vectors,
)
def nuslerp_task_vectors(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Float64 | None,
    position: Position,
    vectors: Vectors = "tensor",
) -> Array:
    """Base plus the point on the arc between two task vectors, t = w[1] / sum(w).

    The rule `nuslerp` of the differences x[i] - base: the update has a length between
    those of the task vectors, where their mean is shorter if they point in different
    directions.

    Parameters
    ----------
    stack : array-like of shape (2, *shape)
        Members along axis 0.
    weights : array-like of shape (2,)
        Non-negative weight of each member.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    state : ndarray of shape (2,) or (2, n_columns), or None
        Coefficients of the task vectors or of their columns, which `Rule` computes from
        inner products; None with ``vectors="row"``.
    position : Position
        Position of the rows in the tensor.
    vectors : {"tensor", "row", "column"}, default="tensor"
        Vectors between which the arc is taken, see `nuslerp`.

    Raises
    ------
    ValueError
        If ``vectors`` is unknown, the squares of a row or column of float64 are out of
        range, or a tensor has more than two axes and ``vectors="column"``.

    Notes
    -----
    It is ``nuslerp`` of mergekit 0.1.5 with ``base_model``. If one task vector is zero,
    the result is a linear interpolation; mergekit takes an angle of 90 degrees.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH, section
    3.3; mergekit's merge method ``nuslerp``.
    """
    check_choice("nuslerp_task_vectors", "vectors", vectors, VECTORS)
    if vectors == "tensor":
        assert state is not None
        return add_task_vectors(stack, state, base)
    out, t = np.empty(base.size, base.dtype), float(weights[1] / weights.sum())
    for start, stop in chunks(out.size, whole_rows(PIECE_SIZE, position)):
        origin = widen(base[None, start:stop])[0]
        deltas = np.ascontiguousarray(widen(stack[:, start:stop]) - origin)
        if state is None:
            update = interpolate_rows(deltas, position, t)
        else:
            update = combine_columns(deltas, position, state)
        out[start:stop] = narrow(update + origin, base.dtype)
    return out


@register(
    RULES,
    statistics=difference_gram,
    finish=_coefficients,
    needs_base=True,
    fused=True,
)
def multislerp_task_vectors(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Float64,
    normalize: bool = True,
    eps: float = 0.0,
) -> Array:
    """Base plus the mean direction of the task vectors with their mean length.

    The rule `multislerp` of the differences x[i] - base: unlike their mean, the update
    is as long as the task vectors are on average.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    state : ndarray of shape (n_members,)
        Coefficients of the task vectors, which `Rule` computes from their inner
        products.
    normalize : bool, default=True
        Whether the lengths are divided by the sum of the weights.
    eps : float, not negative, default=0.0
        Added to the lengths of task vectors before they divide them, so that the
        directions of short ones count less. 1e-8 is mergekit's default.

    Raises
    ------
    ValueError
        If ``normalize`` or ``eps`` is not valid.

    Notes
    -----
    It is ``multislerp`` of mergekit 0.1.5 with ``base_model``, whose
    ``normalize_weights`` is ``normalize``. With a single member mergekit returns the
    member, as this does.

    References
    ----------
    Goddard (2025), "Multi-SLERP", goddard.blog/posts/multislerp-wow-what-a-cool-idea.
    """
    return add_task_vectors(stack, state, base)
