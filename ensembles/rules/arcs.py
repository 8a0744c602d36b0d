"""The rule `nuslerp`: arcs between whole tensors, their rows or their columns."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Array, Float64
from ensembles.kernels.casting import narrow, widen
from ensembles.kernels.gram import BLOCK, MOST, gram
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.kernels.pairs import combine_rows, row_products
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.passes import Pass, Position
from ensembles.rules.spherical import (
    arc_coefficients,
    check_squares,
    slerp_coefficients,
)
from ensembles.rules.table import RULES

Vectors = Literal["tensor", "row", "column"]
VECTORS: tuple[str, ...] = get_args(Vectors)
PIECE_SIZE = 32_768  # elements of each member in float64, which fit the L2 cache


def flattens(*, vectors: Vectors = "tensor") -> bool:
    """Whether arcs are taken between whole tensors.

    Parameters
    ----------
    vectors : {"tensor", "row", "column"}, default="tensor"
        Parameter of the rule.

    Returns
    -------
    bool
    """
    return vectors == "tensor"


def takes_columns(*, vectors: Vectors = "tensor") -> bool:
    """Whether arcs are taken between columns.

    Parameters
    ----------
    vectors : {"tensor", "row", "column"}, default="tensor"
        Parameter of the rule.

    Returns
    -------
    bool
    """
    return vectors == "column"


def whole_rows(n_elements: int, position: Position) -> int:
    """Elements of the whole rows in a number of elements, of one row at least.

    Parameters
    ----------
    n_elements : int
        Number of elements.
    position : Position
        Position of the rows in their tensor.

    Returns
    -------
    int
    """
    row_size = max(position.row_size, 1)
    return max(n_elements // row_size, 1) * row_size


def _gram_of_rows(stack: Array, *, position: Position) -> Float64:
    """Partial Gram matrices of blocks of whole rows, the same in each division."""
    step = whole_rows(BLOCK, position)
    starts = range(0, max(stack.shape[1], 1), step)
    return np.concatenate(
        [gram(np.ascontiguousarray(stack[:, i : i + step])) for i in starts]
    )


def row_coefficients(rows: Float64, t: float) -> Float64:
    """Coefficients of the points on the arcs between the rows of two members.

    Parameters
    ----------
    rows : ndarray of shape (2, n_rows, row_size)
        Members along axis 0.
    t : float, from 0 to 1
        Share of the arc, from the first member.

    Returns
    -------
    ndarray of shape (2, n_rows)
    """
    sums = row_products(rows)
    squares, products = sums[:2], sums[2]
    # Few rows need the test of their entries.
    is_nonzero, is_finite = np.asarray(squares != 0), np.asarray(squares != np.inf)
    if not is_nonzero.all():
        is_nonzero = np.asarray(rows.any(axis=2))
    if not is_finite.all():
        is_finite = np.asarray(np.isfinite(rows).all(axis=2))
    return _arcs(squares, products, is_nonzero, is_finite, t)


def _arcs(
    squares: Float64,
    products: Float64,
    is_nonzero: NDArray[np.bool_],
    is_finite: NDArray[np.bool_],
    t: float,
) -> Float64:
    """Coefficients of the arcs between vectors whose squares are checked first."""
    # As in `gram`: squares that underflow or overflow are out of the range.
    squares = np.where((squares == 0) & is_nonzero, np.nextafter(0, 1), squares)
    squares = np.where((squares == np.inf) & is_finite, MOST, squares)
    check_squares(squares)
    return arc_coefficients(squares, products, t)


def column_sums(
    stack: Float64, *, position: Position, total: Float64 | None
) -> Float64:
    """Sums over the rows of two members, for each column.

    Parameters
    ----------
    stack : ndarray of shape (2, size)
        Whole rows of both members.
    position : Position
        Position of the rows in the tensor.
    total : ndarray of shape (7, n_columns) or None
        Sums of the rows before; None for the first rows.

    Returns
    -------
    ndarray of shape (7, n_columns)
        Sums of squares of the first and of the second member, and of their products;
        number of entries of each member that are not zero, and that are not finite.
        Rows are added one after the other, so that blocks make no difference.
    """
    total = np.zeros((7, _n_columns(position))) if total is None else total
    for start, stop in chunks(stack.shape[1], _column_step(position)):
        first, second = rows = stack[:, start:stop].reshape(2, -1, total.shape[1])
        pairs = ((first, first), (second, second), (first, second))
        for sums, (a, b) in zip(total, pairs, strict=False):
            products = a * b
            products[0] += sums
            sums[:] = _last_sum(products)
        total[3:5] += np.count_nonzero(rows, axis=1)
        total[5:] += np.count_nonzero(~np.isfinite(rows), axis=1)
    return total


def _last_sum(rows: Float64) -> Float64:
    """Sum of rows, one after the other."""
    if rows.shape[1] == 1:  # `reduce` adds the entries of a single column in pairs
        return np.asarray(np.add.accumulate(rows, axis=0)[-1])
    return np.asarray(np.add.reduce(rows, axis=0))


def column_coefficients(total: Float64, weights: Float64) -> Float64:
    """Coefficients of the points on the arcs between the columns of two members.

    Parameters
    ----------
    total : ndarray of shape (7, n_columns)
        Return value of `column_sums` after the last row.
    weights : ndarray of shape (2,)
        Weight of each member; the share of the arc is w[1] / sum(w).

    Returns
    -------
    ndarray of shape (2, n_columns)
    """
    n_nonzero, n_infinite = total[3:5], total[5:]
    t = float(weights[1] / weights.sum())
    return _arcs(total[:2], total[2], n_nonzero > 0, n_infinite == 0, t)


def _n_columns(position: Position) -> int:
    """Number of columns of a matrix; a vector is a single one."""
    return position.row_size if len(position.shape) == 2 else 1


def _column_step(position: Position) -> int:
    """Elements of whole rows that are added at once; a vector has rows of one."""
    is_matrix = len(position.shape) == 2
    return whole_rows(PIECE_SIZE, position) if is_matrix else PIECE_SIZE


def interpolate_rows(members: Float64, position: Position, t: float) -> Float64:
    """Points on the arcs between the rows of two members.

    Parameters
    ----------
    members : ndarray of shape (2, size)
        Whole rows of both members.
    position : Position
        Position of the rows in the tensor.
    t : float, from 0 to 1
        Share of the arcs, from the first member.

    Returns
    -------
    ndarray of shape (size,)
    """
    rows = members.reshape(2, -1, position.row_size)
    return combine_rows(rows, row_coefficients(rows, t)).reshape(-1)


def combine_columns(
    members: Float64, position: Position, coefficients: Float64
) -> Float64:
    """Linear combination of each column of two members.

    Parameters
    ----------
    members : ndarray of shape (2, size)
        Whole rows of both members.
    position : Position
        Position of the rows in the tensor.
    coefficients : ndarray of shape (2, n_columns)
        Coefficient of each column of each member.

    Returns
    -------
    ndarray of shape (size,)
    """
    first, second = members.reshape(2, -1, _n_columns(position))
    return np.asarray(coefficients[0] * first + coefficients[1] * second).reshape(-1)


def has_vectors(position: Position, *, vectors: Vectors = "tensor") -> bool:
    """Whether the rule needs whole rows, as it always does; refuses other columns.

    The plan calls it for each tensor, so that a tensor whose columns are not defined is
    reported before any tensor is read.

    Parameters
    ----------
    position : Position
        Position in the tensor.
    vectors : {"tensor", "row", "column"}, default="tensor"
        Parameter of the rule.

    Returns
    -------
    bool
        True.

    Raises
    ------
    ValueError
        If a tensor has more than two axes and ``vectors="column"``.
    """
    if vectors == "column" and len(position.shape) > 2:
        where = f"tensor {position.name!r}: " * bool(position.name)
        raise ValueError(
            f"{where}vectors='column' (--param vectors=column) requires tensors of at "
            f"most two axes, found shape {position.shape}; pass vectors='row', or "
            "leave such tensors out (--exclude)"
        )
    return True


@register(
    RULES,
    passes=[
        Pass(_gram_of_rows, slerp_coefficients, flattens),
        Pass(column_sums, column_coefficients, takes_columns, fused=False),
    ],
    n_members=2,
    fused=True,
    unit="row",
    has_units=has_vectors,
)
def nuslerp(
    stack: Array,
    weights: Float64,
    *,
    state: Float64 | None,
    position: Position,
    vectors: Vectors = "tensor",
) -> Array:
    """Spherical interpolation of tensors, of their rows or columns, t = w[1] / sum(w).

    ``slerp`` between the members' tensors, or between each row (column) of a tensor and
    the same row (column) of the other member's: with an angle of its own for each row,
    directions are interpolated unit by unit of a linear layer. A vector is one row, and
    one column.

    Parameters
    ----------
    stack : array-like of shape (2, *shape)
        Members along axis 0.
    weights : array-like of shape (2,)
        Non-negative weight of each member.
    state : ndarray of shape (2,) or (2, n_columns), or None
        Coefficients of the members or of their columns, which `Rule` computes from
        inner products; None with ``vectors="row"``.
    position : Position
        Position of the rows in the tensor.
    vectors : {"tensor", "row", "column"}, default="tensor"
        Vectors between which the arc is taken: "tensor" is rule ``slerp``, and mergekit
        by default; "row" is the last axis, mergekit with ``nuslerp_flatten: false``;
        "column" is the first of at most two axes, mergekit with ``nuslerp_row_wise:
        true`` in addition.

    Raises
    ------
    ValueError
        If ``vectors`` is unknown, the squares of a float64 vector are out of range,
        with entries around 1e-170 or 1e160, or a tensor has more than two axes and
        ``vectors="column"``.

    Notes
    -----
    With ``base_model``, mergekit 0.1.5 interpolates the differences from the base. It
    computes in the format of the members: in bfloat16 it rounds a third of the elements
    wrongly.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH, section
    3.3; mergekit's merge method ``nuslerp``.
    """
    if vectors not in VECTORS:
        raise ValueError(
            f"vectors of 'nuslerp' must be one of {', '.join(map(repr, VECTORS))}, "
            f"found {vectors!r}"
        )
    if vectors == "tensor":
        assert state is not None
        return weighted_mean(stack, state, total=1.0)
    out, t = np.empty(stack.shape[1], stack.dtype), float(weights[1] / weights.sum())
    for start, stop in chunks(len(out), whole_rows(PIECE_SIZE, position)):
        piece = np.ascontiguousarray(widen(stack[:, start:stop]))
        if state is None:
            combined = interpolate_rows(piece, position, t)
        else:
            combined = combine_columns(piece, position, state)
        out[start:stop] = narrow(combined, stack.dtype)
    return out
