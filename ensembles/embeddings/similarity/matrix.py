"""Matrix of the cosine similarities of two sets of vectors, in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensembles.embeddings.similarity.unit_rows import UnitRows
from ensembles.parallel import chunks


def cosine_matrix(
    first: ArrayLike, second: ArrayLike | None = None, *, out: Any = None
) -> NDArray[Any]:
    """Cosine similarity of every row of one array with every row of another.

    Parameters
    ----------
    first : array-like of shape (n, dim)
        Vectors, one per row: floats or integers, such as int8 with one scale for all,
        which does not change a cosine. Arrays of uint8 are packed sign bits, as
        returned with ``dtype="binary"``.
    second : array-like of shape (m, dim) or None, default=None
        Vectors of the same kind. None takes ``first``; the matrix is symmetric then.
    out : ndarray of shape (n, m), float32 or float64, or None, default=None
        Output array, e.g. a memory map. None allocates one of float32.

    Returns
    -------
    ndarray of shape (n, m)
        Similarities from -1 to 1, computed in float32 with an error below
        ``(dim + 4) * 2**-24``; 0 if either vector is zero. ``out`` if it is given.

    Raises
    ------
    ValueError
        If the shapes do not match, or a vector is not finite.

    See Also
    --------
    paired_cosines : Cosines of paired rows, in float64.
    semantic_search : The most similar rows alone, without the matrix.

    Examples
    --------
    >>> cosine_matrix([[1, 0], [1, 1]], [[2, 0], [0, 0], [-1, -1]])
    array([[ 1.        ,  0.        , -0.70710677],
           [ 0.70710677,  0.        , -1.        ]], dtype=float32)
    """
    a = UnitRows(first, "first")
    b = a if second is None else UnitRows(second, "second")
    a.check_same_dim(b)
    shape = (len(a), len(b))
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype.char not in "fd":
        raise ValueError(
            f"out must be float32 or float64 of shape {shape}, found {out.dtype} of "
            f"shape {out.shape}"
        )
    for start, stop in chunks(len(a), a.block_size):
        rows = a.unit(start, stop)
        # Without ``second``, blocks below the diagonal are mirrored.
        for left, right in chunks(len(b), b.block_size):
            if second is None and left < start:
                out[start:stop, left:right] = out[left:right, start:stop].T
                continue
            columns = rows if second is None and left == start else b.unit(left, right)
            products = rows @ columns.T
            if second is None and left == start:
                products = np.triu(products) + np.triu(products, 1).T
            out[start:stop, left:right] = np.clip(products, -1, 1)
    return np.asarray(out)
