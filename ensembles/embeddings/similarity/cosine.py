"""How alike vectors are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensembles._typing import Float64
from ensembles.parallel import cut

BLOCK = 4096


def cosines(first: ArrayLike, second: ArrayLike) -> Float64:
    """Cosine of the angle between vectors, row by row.

    Parameters
    ----------
    first, second : array-like of shape (n_pairs, dim)
        Of one row, it is compared with each of the other. Arrays of uint8 are sign
        bits, eight to a byte, as ``dtype="bits"`` gives them; without any bit, as of
        a text without known words, they are a vector of zeros.

    Returns
    -------
    ndarray of shape (n_pairs,), float64
        0 where a vector is all zeros, as that of a text without known words is.

    Raises
    ------
    ValueError
        If the shapes do not belong together.

    Examples
    --------
    >>> cosines([[1, 0], [1, 1]], [[1, 0]])
    array([1.        , 0.70710678])
    """
    a, b = np.asarray(first), np.asarray(second)
    alike = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1]
    if not alike or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(
            "vectors must have shape (n_pairs, dim), both the same, or one row: found "
            f"{a.shape} and {b.shape}"
        )
    n_pairs = len(b) if len(a) == 1 else len(a)
    found = np.zeros(n_pairs)
    for start, stop in cut(n_pairs, BLOCK):
        x, y = (_rows(part, start, stop) for part in (a, b))
        products = np.einsum("ij,ij->i", x, y)
        squares = np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y)
        some = squares != 0  # NaN stays NaN
        shares = products[some] / np.sqrt(squares[some])
        found[start:stop][some] = np.clip(shares, -1, 1)  # rounding may go beyond
    return found


def _rows(vectors: NDArray[Any], start: int, stop: int) -> Float64:
    part = vectors if len(vectors) == 1 else vectors[start:stop]
    if part.dtype == np.uint8:
        filled = part.any(axis=1, keepdims=True)
        part = filled * (2.0 * np.unpackbits(part, axis=1) - 1)
    part = part.astype(np.float64)
    # By a power of two, which is exact: squares of squares stay within float64.
    _, exponents = np.frexp(np.abs(part).max(axis=1, initial=0.0, keepdims=True))
    return np.broadcast_to(np.ldexp(part, -exponents), (stop - start, part.shape[1]))
