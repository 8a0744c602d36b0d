"""Low-rank approximations of matrices, by singular values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.methods.matrices.blas import one_blas_thread

# Matrices with a larger smaller side take minutes by a full decomposition.
LARGEST = 1024
# Of the randomized method: columns beside the rank, and iterations. Halko, Martinsson
# and Tropp (2011), "Finding structure with randomness", algorithm 4.4.
OVERSAMPLING, ITERATIONS = 16, 4
ROUNDING = float(np.finfo(np.float64).eps)


class Approximation(NamedTuple):
    """Factors of a matrix, ``b @ a``, both with the roots of its singular values.

    Parameters
    ----------
    a : ndarray of shape (rank, n_columns)
        First factor.
    b : ndarray of shape (n_rows, rank)
        Second factor.
    """

    a: Float64
    b: Float64


def approximate(
    matrix: Float64, *, rank: int | None = None, energy: float | None = None
) -> Approximation:
    """Approximate a matrix by a product of low rank.

    The best approximation, by a singular value decomposition. A matrix whose sides are
    larger than 1,024 is decomposed by iterations of random vectors, the same in each
    run, up to a ``rank`` that is small beside it; for an ``energy`` alone, or a larger
    rank, from its products with itself, which lose singular values below a millionth of
    the largest. Measure the error of the result where it matters.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        Matrix with finite entries.
    rank : int or None, default=None
        Largest rank; None leaves the choice to ``energy``.
    energy : float in (0, 1] or None, default=None
        Fraction of the sum of squares that the product keeps with the smallest rank;
        None takes ``rank``.

    Returns
    -------
    Approximation
        Of rank 1 at least; directions within rounding error of float64 are left out.
    """
    total = float(np.square(matrix).sum())
    with one_blas_thread():
        left, values, right = _decomposed(matrix, rank)
    size = max(matrix.shape) * ROUNDING * values[:1].sum()
    n_kept = int(np.sum(values > size))
    if energy is not None:
        kept = np.cumsum(np.square(values))
        n_kept = min(n_kept, int(np.searchsorted(kept, energy * total)) + 1)
    if rank is not None:
        n_kept = min(n_kept, rank)
    n_kept = max(n_kept, 1)
    roots = np.sqrt(values[:n_kept])
    return Approximation(roots[:, None] * right[:n_kept], left[:, :n_kept] * roots)


def _decomposed(matrix: Float64, rank: int | None) -> tuple[Float64, Float64, Float64]:
    """Singular values of a matrix, or the largest, with their vectors."""
    n_smaller = min(matrix.shape)
    if n_smaller <= LARGEST:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return left, values, right
    if rank is not None and 8 * (rank + OVERSAMPLING) <= n_smaller:
        return _randomized(matrix, rank + OVERSAMPLING)
    if matrix.shape[0] > matrix.shape[1]:
        right, values, left = _by_products(matrix.T)
        return left.T, values, right.T
    return _by_products(matrix)


def _randomized(matrix: Float64, n_vectors: int) -> tuple[Float64, Float64, Float64]:
    """Leading singular values, from the range of a few random vectors."""
    rng = np.random.Generator(np.random.Philox(0))
    basis = matrix @ rng.standard_normal((matrix.shape[1], n_vectors))
    for _ in range(ITERATIONS):
        basis = matrix.T @ np.linalg.qr(basis)[0]
        basis = matrix @ np.linalg.qr(basis)[0]
    basis = np.linalg.qr(basis)[0]
    left, values, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values, right


def _by_products(matrix: Float64) -> tuple[Float64, Float64, Float64]:
    """Singular values from the eigenvalues of the products of the rows."""
    squares, left = np.linalg.eigh(matrix @ matrix.T)
    left = left[:, ::-1]
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    # The square root of rounding: these directions are arbitrary.
    values[values < np.sqrt(max(matrix.shape) * ROUNDING) * values[:1]] = 0.0
    right = np.divide(
        left.T @ matrix,
        values[:, None],
        out=np.zeros(matrix.shape),
        where=values[:, None] > 0,
    )
    return left, values, right
