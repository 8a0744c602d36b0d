"""The table of word vectors in the data type of the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.parallel import chunks

STEP = 1 << 14  # rows of a block
TABLE_DTYPES = ("float32", "float16", "int8")
LEVELS = 127  # positive int8 levels, and as many negative ones


def build_table(
    vectors_of: Callable[[int, int], NDArray[Any]],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    *,
    scaled: bool,
) -> tuple[NDArray[Any], Float32 | None]:
    """Convert vectors to the data type of the file, block by block.

    Parameters
    ----------
    vectors_of : callable (start, stop) -> ndarray of shape (stop - start, dim)
        Returns the vectors of some rows.
    shape : (int, int)
        Numbers of rows and columns.
    dtype : dtype
        Data type of the table.
    scaled : bool
        Whether each row is divided by a scale before it is rounded, so that its largest
        entry becomes 127, for int8.

    Returns
    -------
    table : ndarray of shape (n_rows, dim), of ``dtype``
        The vectors, over their scales.
    scales : ndarray of shape (n_rows,), float32, or None
        Scale of each row; None without ``scaled``.

    Raises
    ------
    ValueError
        If a vector is too large for float16.
    """
    table = np.empty(shape, dtype)
    scales = np.ones(shape[0], np.float32) if scaled else None
    for start, stop in chunks(shape[0], STEP):
        vectors = vectors_of(start, stop)
        if scales is not None:
            vectors = vectors.astype(np.float64)
            largest = np.abs(vectors).max(axis=1)
            scales[start:stop] = np.where(largest > 0, largest / LEVELS, 1)
            vectors = np.rint(vectors / scales[start:stop, None])
        with np.errstate(over="ignore"):
            table[start:stop] = vectors
        if dtype == np.float16 and not np.isfinite(table[start:stop]).all():
            raise ValueError(
                "table_dtype='float16' requires vectors of at most 65504 in magnitude, "
                f"found {np.abs(vectors).max():.6g}; pass table_dtype='float32' or "
                "'int8'"
            )
    return table, scales
