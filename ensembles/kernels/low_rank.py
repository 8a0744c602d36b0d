# mypy: disable-error-code="no-untyped-def"
"""Products of low-rank factors, added to elements of a matrix in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ensembles._typing import Float64
from ensembles.kernels.jit import LANE, PIECE, compiled, use_loops

UNROLLED = 4  # products that a loop adds at once, so that it stores a sum less often


def add_product(values: Float64, left: Float64, right: Float64, start: int) -> None:
    """Add elements of ``left @ right``, in place.

    Each element is summed in the order of the rank, without fused operations, so that
    it does not depend on the part of the matrix that is computed at once.

    Parameters
    ----------
    values : ndarray of shape (size,), contiguous
        Elements of a matrix from ``start`` on, in C order, to which the product is
        added.
    left : ndarray of shape (n_rows, rank), contiguous
        First factor.
    right : ndarray of shape (rank, n_columns), contiguous
        Second factor.
    start : int
        Position of the first element in the matrix.
    """
    if use_loops(values.size * max(len(right), 1)):
        _add_product(values, left, right, start)
    else:
        add_product_reference(values, left, right, start)


def add_product_reference(
    values: Float64, left: Float64, right: Float64, start: int
) -> None:
    """NumPy reference of `add_product`.

    Parameters
    ----------
    values : ndarray of shape (size,)
        Elements of a matrix from ``start`` on, to which the product is added.
    left, right : ndarray
        Factors of shape (n_rows, rank) and (rank, n_columns).
    start : int
        Position of the first element in the matrix.
    """
    n_columns = right.shape[1]
    done = 0
    with np.errstate(all="ignore"):
        for row, first, last in _pieces(start, start + values.size, n_columns):
            n_rows = max((last - first) // n_columns, 1)
            column = first - row * n_columns
            width = (last - first) // n_rows
            sums = np.zeros((n_rows, width))
            for k in range(len(right)):
                products = left[row : row + n_rows, k, None]
                sums += products * right[k, column : column + width]
            values[done : done + sums.size] += sums.reshape(-1)
            done += sums.size


def _pieces(start: int, stop: int, n_columns: int) -> Iterator[tuple[int, int, int]]:
    """Parts of a row, and groups of whole rows: first row, first and last element."""
    most = max(PIECE // n_columns, 1) * n_columns
    while start < stop:
        row, column = divmod(start, n_columns)
        end = min(start + most, stop) if column == 0 else (row + 1) * n_columns
        if end - start >= n_columns:
            end -= end % n_columns
        end = min(end, stop)
        yield row, start, end
        start = end


@compiled
def _add_product(values, left, right, start):
    rank, n_columns = right.shape
    sums = np.empty(LANE, np.float64)
    done = 0
    while done < values.size:
        row = (start + done) // n_columns
        column = (start + done) - row * n_columns
        size = min(LANE, n_columns - column, values.size - done)
        part = values[done : done + size]
        for j in range(size):
            sums[j] = 0.0
        k = 0
        while k + UNROLLED <= rank:
            a, b, c, d = (
                left[row, k],
                left[row, k + 1],
                left[row, k + 2],
                left[row, k + 3],
            )
            v = right[k, column : column + size]
            w = right[k + 1, column : column + size]
            x = right[k + 2, column : column + size]
            y = right[k + 3, column : column + size]
            for j in range(size):
                sums[j] = (((sums[j] + a * v[j]) + b * w[j]) + c * x[j]) + d * y[j]
            k += UNROLLED
        while k < rank:
            a, v = left[row, k], right[k, column : column + size]
            for j in range(size):
                sums[j] = sums[j] + a * v[j]
            k += 1
        for j in range(size):
            part[j] += sums[j]
        done += size
