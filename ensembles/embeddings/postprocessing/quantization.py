"""L2 normalization of sentence vectors, and conversion to their output dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.pooling.loops import normalize_rows

FLOATS = ("float16", "float32", "float64")
DTYPES = (*FLOATS, "int8", "binary")
LEVELS = 127  # positive int8 levels, and as many negative ones


def l2_normalize(vectors: Float32) -> Float32:
    """L2-normalize vectors in place; zero vectors stay zero.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32, C-contiguous
        Vectors, one per row; they are overwritten.

    Returns
    -------
    ndarray of shape (n, dim), float32
        The same array.
    """
    normalize_rows(vectors, 0, len(vectors))
    return vectors


def quantize(vectors: Float32, dtype: str, scale: float) -> NDArray[Any]:
    """Convert vectors to their output data type.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
        Vectors, one per row.
    dtype : {"float16", "float32", "float64", "int8", "binary"}
        "int8" stores ``127 x / scale``, rounded and clipped to [-127, 127]. "binary"
        packs signs, eight per byte: 1 for positive entries, else 0. The last byte is
        padded with the first signs, so the negative of a vector without zeros has the
        opposite bits.
    scale : float
        Magnitude that "int8" maps to 127; other data types ignore it.

    Returns
    -------
    ndarray of shape (n, dim), or (n, ceil(dim / 8)), uint8, for "binary"
        The converted vectors; the input itself for "float32".
    """
    if dtype == "float32":
        return vectors
    if dtype == "binary":
        signs = np.pad(vectors > 0, ((0, 0), (0, -vectors.shape[1] % 8)), "wrap")
        return np.asarray(np.packbits(signs, axis=1))
    if dtype == "int8":
        levels = np.clip(np.rint(vectors * (LEVELS / scale)), -LEVELS, LEVELS)
        return np.asarray(levels, np.int8)
    return np.asarray(vectors.astype(dtype, copy=False))


def check_dtype(dtype: Any) -> str:
    """Check an output data type and return its name.

    Parameters
    ----------
    dtype : str, NumPy dtype or type
        Data type to check.

    Returns
    -------
    str
        One of `DTYPES`.

    Raises
    ------
    ValueError
        If ``dtype`` is not one of `DTYPES`.
    """
    # NumPy takes None for float64.
    is_dtype = isinstance(dtype, np.dtype | type)
    name = np.dtype(dtype).name if is_dtype else dtype
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, found {dtype!r}")
    return name
