"""Cosine similarity of pairs of vectors and of packed sign bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensembles._typing import Float64
from ensembles.parallel import chunks

BLOCK = 4096


def paired_cosines(first: ArrayLike, second: ArrayLike) -> Float64:
    """Cosine similarity of paired rows.

    Parameters
    ----------
    first, second : array-like of shape (n_pairs, dim)
        Vectors, one per row; an array with a single row is broadcast. Arrays of uint8
        are packed sign bits, as returned with ``dtype="binary"``: 1 means +1, 0 means
        -1, and a row with no bit set is a zero vector, e.g. of a text without known
        words.

    Returns
    -------
    ndarray of shape (n_pairs,), float64
        Similarities from -1 to 1; 0 if either vector is zero.

    Raises
    ------
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> paired_cosines([[1, 0], [1, 1]], [[1, 0]])
    array([1.        , 0.70710678])
    """
    a, b = np.asarray(first), np.asarray(second)
    same_dim = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1]
    if not same_dim or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(
            "vectors must have the same shape (n_pairs, dim), or one of them a single "
            f"row; found {a.shape} and {b.shape}"
        )
    n_pairs = len(b) if len(a) == 1 else len(a)
    cosines = np.zeros(n_pairs)
    for start, stop in chunks(n_pairs, BLOCK):
        x, y = (_rows(block, start, stop) for block in (a, b))
        products = np.einsum("ij,ij->i", x, y)
        squares = np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y)
        is_nonzero = squares != 0  # NaN stays NaN
        quotients = products[is_nonzero] / np.sqrt(squares[is_nonzero])
        # Rounding may exceed 1.
        cosines[start:stop][is_nonzero] = np.clip(quotients, -1, 1)
    return cosines


def _rows(vectors: NDArray[Any], start: int, stop: int) -> Float64:
    block = as_float64(vectors if len(vectors) == 1 else vectors[start:stop])
    return np.broadcast_to(block, (stop - start, block.shape[1]))


def as_float64(vectors: NDArray[Any]) -> Float64:
    """Convert rows to float64, scaled so that products of squares do not overflow.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim)
        Vectors, one per row; packed sign bits as uint8 become -1 and 1.

    Returns
    -------
    ndarray of shape (n, dim), float64
        The rows; those of float64 are scaled by a power of two.
    """
    if vectors.dtype == np.uint8:
        filled = vectors.any(axis=1, keepdims=True)
        vectors = filled * (2.0 * np.unpackbits(vectors, axis=1) - 1)
    if vectors.dtype != np.float64:
        return np.asarray(vectors, np.float64)
    # Scaling by a power of two is exact, and keeps products of squares within float64.
    _, exponents = np.frexp(np.abs(vectors).max(axis=1, initial=0.0, keepdims=True))
    return np.asarray(np.ldexp(vectors, -exponents))
