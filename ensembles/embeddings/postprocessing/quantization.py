"""The last steps of a sentence vector: length 1, and the format of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.parallel import cut

FLOATS = ("float16", "float32", "float64")
DTYPES = (*FLOATS, "int8", "bits")
LEVELS = 127  # of int8 on each side of zero
BLOCK = 4096


def normalized(vectors: Float32) -> Float32:
    """Vectors brought to length 1 in place; those of zeros stay zeros.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32, written to

    Returns
    -------
    ndarray of shape (n, dim), float32, the same
    """
    for start, stop in cut(len(vectors), BLOCK):
        part = vectors[start:stop].astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        lengths[lengths == 0] = 1
        vectors[start:stop] = part / lengths[:, None]
    return vectors


def cast(vectors: Float32, dtype: str, scale: float) -> NDArray[Any]:
    """Vectors in their last format.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
    dtype : {"float16", "float32", "float64", "int8", "bits"}
        "int8" holds ``127 x / scale``, rounded and cut off at both ends; "bits" the
        signs, eight to a byte: 1 where a number is positive. The last byte is filled up
        with the first signs, so that opposite vectors have opposite bits.
    scale : float
        For "int8".

    Returns
    -------
    ndarray of shape (n, dim), or (n, dim / 8) rounded up for "bits"
    """
    if dtype == "float32":
        return vectors
    if dtype == "bits":
        signs = np.pad(vectors > 0, ((0, 0), (0, -vectors.shape[1] % 8)), "wrap")
        return np.asarray(np.packbits(signs, axis=1))
    if dtype == "int8":
        levels = np.clip(np.rint(vectors * (LEVELS / scale)), -LEVELS, LEVELS)
        return np.asarray(levels, np.int8)
    return np.asarray(vectors.astype(dtype, copy=False))


def check_dtype(dtype: Any) -> str:
    """Name of the format.

    Parameters
    ----------
    dtype : str or numpy dtype

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is not one of `DTYPES`.
    """
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, found {dtype!r}")
    return name
