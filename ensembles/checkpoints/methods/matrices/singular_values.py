"""Singular values and vectors of task matrices, and their orthogonal combinations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64


class SingularValues(NamedTuple):
    """Some singular values of a matrix, or of several, with their vectors.

    Parameters
    ----------
    left : ndarray of shape (n_rows, n_values)
        Left singular vectors.
    values : ndarray of shape (n_values,)
        Singular values.
    right : ndarray of shape (n_values, n_columns)
        Right singular vectors.
    """

    left: Float64
    values: Float64
    right: Float64


def leading(
    matrix: Float64, n_values: int, *, epsilon: float, largest: float | None = None
) -> SingularValues:
    """Largest singular values of a matrix, with their vectors.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        Matrix.
    n_values : int
        How many are returned at most. Values that count as zero are left out, because
        their vectors are arbitrary.
    epsilon : float
        Singular values up to this fraction of the largest count as zero.
    largest : float or None, default=None
        Largest singular value of the matrix that ``matrix`` is a part of; None is that
        of ``matrix``.

    Returns
    -------
    SingularValues
    """
    left, values, right = _svd(matrix)
    if largest is None:
        largest = values[:1].sum()
    kept = min(n_values, n_above(values, largest, epsilon, max(matrix.shape)))
    # Copies: a view would keep all vectors in memory.
    return SingularValues(left[:, :kept].copy(), values[:kept], right[:kept].copy())


def orthogonalized(parts: Iterable[SingularValues], epsilon: float) -> SingularValues:
    """Singular values of several matrices, with the nearest orthonormal vectors.

    Parameters
    ----------
    parts : iterable of SingularValues
        Singular values of each matrix.
    epsilon : float
        Directions that contribute up to this fraction of the largest are left out.

    Returns
    -------
    SingularValues
        In the order of the parts.
    """
    lefts, values, rights = (list(column) for column in zip(*parts, strict=True))
    left, right = np.hstack(lefts), np.vstack(rights)
    lefts.clear()
    rights.clear()
    return SingularValues(
        orthogonal_factor(left, epsilon)[1],
        np.concatenate(values),
        orthogonal_factor(right, epsilon)[1],
    )


def orthogonal_factor(matrix: Float64, epsilon: float) -> tuple[Float64, Float64]:
    """Singular values of a matrix and its orthogonal polar factor.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        Matrix U diag(s) V.
    epsilon : float
        Singular values up to this fraction of the largest count as zero, as do values
        within rounding error.

    Returns
    -------
    singular_values : ndarray of shape (min(n_rows, n_columns),)
        All of these, in descending order.
    factor : ndarray of shape (n_rows, n_columns)
        U V without the directions of singular value zero, which are arbitrary.
    """
    left, values, right = _svd(matrix)
    kept = n_above(values, values[:1].sum(), epsilon, max(matrix.shape))
    return values, left[:, :kept] @ right[:kept]


def _svd(matrix: Float64) -> SingularValues:
    """Singular value decomposition, also where LAPACK fails in the first attempt."""
    try:
        return SingularValues(*np.linalg.svd(matrix, full_matrices=False))
    except np.linalg.LinAlgError:
        # A rare failure of its divide-and-conquer algorithm, see OpenBLAS#3044. The
        # transpose takes other steps.
        left, values, right = np.linalg.svd(matrix.T.copy(), full_matrices=False)
        return SingularValues(right.T, values, left.T)


def largest_of(matrix: Float64) -> float:
    """Largest singular value of a matrix, 0 for an empty one.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        Matrix.

    Returns
    -------
    float
    """
    return float(np.linalg.svd(matrix, compute_uv=False)[:1].sum())


def norm_of(matrix: Float64) -> float:
    """Frobenius norm, also where the squares of entries are out of range.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        Matrix with finite entries.

    Returns
    -------
    float
    """
    largest = np.abs(matrix).max(initial=0.0)
    return float(largest * np.linalg.norm(matrix / largest)) if largest else 0.0


def n_above(values: Float64, largest: float, epsilon: float, size: int) -> int:
    """Number of singular values above rounding error and a fraction of the largest.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        Singular values.
    largest : float
        Largest singular value of the matrix.
    epsilon : float
        Fraction of the largest.
    size : int
        Larger side of the matrix, to which rounding errors are proportional.

    Returns
    -------
    int
    """
    fraction = max(epsilon, size * np.finfo(np.float64).eps)
    return int(np.count_nonzero(values > fraction * largest))
