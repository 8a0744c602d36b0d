"""Vectors of rows that are stored in few bits, or shared by several rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.dtypes import FLOATS

# Formats whose rows are read without converting the table.
STORED = tuple(map(np.dtype, ("float32", "float16", ml_dtypes.bfloat16, "int8")))


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Vectors that are computed from stored ones when they are read.

    The vector of a row is ``scales[row] * stored[mapping[row]]``, rounded to float32.
    The table supports ``len``, ``shape``, indexing by rows, and conversion by
    ``np.asarray``; only the vectors that are read are computed.

    Parameters
    ----------
    stored : ndarray of shape (n_stored, dim), float32, float16, bfloat16 or int8
        Vectors as stored, possibly memory-mapped.
    mapping : ndarray of shape (n_rows,), integers, or None, default=None
        Index of the stored vector of each row, as in model2vec's vocabulary
        quantization; None if row ``i`` is stored at ``i``.
    scales : ndarray of shape (n_rows,), float32, or None, default=None
        Factor of each row; None is 1.
    """

    stored: NDArray[Any] = field(repr=False)
    mapping: NDArray[Any] | None = field(default=None, repr=False)
    scales: Float32 | None = field(default=None, repr=False)

    ndim = 2
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        rows = self.stored if self.mapping is None else self.mapping
        return len(rows), int(self.stored.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Float32:
        stored = self.stored[rows if self.mapping is None else self.mapping[rows]]
        vectors: Float32 = stored.astype(np.float32)
        if self.scales is not None:
            vectors *= self.scales[rows][..., None]
        return vectors

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the vectors must be computed: copy must not be False")
        return self[:].astype(dtype or np.float32, copy=False)


# A table of vectors, with the interface of an array as far as rows are read.
Matrix = NDArray[Any] | VectorTable


def as_stored(matrix: NDArray[Any]) -> NDArray[Any]:
    """Matrix in a format whose rows are read as they are.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, dim)
        Matrix of numbers.

    Returns
    -------
    ndarray
        The matrix itself if it is C-contiguous float32, float16, bfloat16 or int8, else
        a float32 copy.
    """
    if matrix.dtype in STORED and matrix.flags.c_contiguous:
        return matrix
    dtype = matrix.dtype if matrix.dtype in STORED else np.float32
    return np.ascontiguousarray(matrix, dtype)


def check_matrix(matrix: Any, source: str) -> None:
    """Raise unless an object is a non-empty 2-D array of real numbers.

    Parameters
    ----------
    matrix : object
        Object to check.
    source : str
        Name of the origin, for messages.

    Raises
    ------
    TypeError
        If it is not an array, or its dtype is neither floating point nor integer.
    ValueError
        If it is not two-dimensional, or an axis is empty.
    """
    dtype = getattr(matrix, "dtype", None)
    is_real = dtype in FLOATS or getattr(dtype, "kind", "") in "iu"
    if not isinstance(matrix, np.ndarray | VectorTable) or not is_real:
        raise TypeError(f"{source} must be an array of real numbers, found {dtype}")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{source} must have shape (n_tokens, dim), both at least 1, found "
            f"{matrix.shape}"
        )


def without_last(matrix: Matrix) -> Matrix:
    """Table without its last row, and without a copy of the others."""
    if isinstance(matrix, np.ndarray):
        return matrix[:-1]
    mapping, scales = matrix.mapping, matrix.scales
    return VectorTable(
        matrix.stored[:-1] if mapping is None else matrix.stored,
        None if mapping is None else mapping[:-1],
        None if scales is None else scales[:-1],
    )


def static_table(tensors: dict[str, NDArray[Any]], name: str, source: str) -> Matrix:
    """Table of a static model, with the mapping and the weights of model2vec.

    Parameters
    ----------
    tensors : dict of str to ndarray
        Tensors of the model: the table, and optionally ``mapping``, the stored vector
        of each token, and ``weights``, the factor of each token.
    name : str
        Name of the table.
    source : str
        Name of the origin, for messages.

    Returns
    -------
    ndarray or VectorTable
        The table itself if the model has neither mapping nor weights.

    Raises
    ------
    ValueError
        If the tensors do not fit together.
    """
    matrix, mapping = tensors[name], tensors.get("mapping")
    check_matrix(matrix, source)
    if mapping is not None:
        if mapping.ndim != 1 or mapping.dtype.kind not in "iu":
            raise ValueError(f"{source}: its mapping must be a 1-D array of integers")
        if mapping.size and not 0 <= mapping.min() <= mapping.max() < len(matrix):
            raise ValueError(
                f"{source}: its mapping must have rows below {len(matrix)}, found "
                f"{mapping.min()} to {mapping.max()}"
            )
        if mapping.dtype != np.int32:
            mapping = mapping.astype(np.int64, copy=False)
    n_rows = len(matrix if mapping is None else mapping)
    weights = tensors.get("weights")
    if weights is not None and weights.shape != (n_rows,):
        raise ValueError(f"{source} must have a weight for each row of its table")
    if mapping is None and weights is None:
        return as_stored(matrix)
    scales = None if weights is None else np.ascontiguousarray(weights, np.float32)
    return VectorTable(as_stored(matrix), mapping, scales)
