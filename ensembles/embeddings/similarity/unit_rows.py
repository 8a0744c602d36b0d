"""Rows of vectors in any data type as float32 unit vectors, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensembles._typing import Counts, Float32, Float64
from ensembles.embeddings.similarity.cosine import as_float64, paired_cosines
from ensembles.parallel import chunks

BLOCK_BYTES = 4 << 20  # of a block of unit vectors; fits into the cache of a core
PAIRS = 4096  # pairs whose cosines are computed at once
UNIT_ROUNDOFF = 2.0**-24  # of float32
# Signs of the eight bits of each byte.
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
SIGNS: Float32 = 2 * BITS.astype(np.float32) - 1


class UnitRows:
    """Vectors whose rows are read as float32 unit vectors, block by block.

    Parameters
    ----------
    vectors : array-like of shape (n, dim)
        Vectors, one per row, which may be memory-mapped: floats, integers, or packed
        sign bits as uint8. A float32 unit vector is within ``UNIT_ROUNDOFF`` of the
        exact one, relative to each entry; a zero vector stays zero.
    name : str, default="vectors"
        Name of the vectors in messages.
    are_unit : bool, default=False
        Whether the rows are float32 unit vectors or zero already, and finite.
    """

    def __init__(
        self, vectors: ArrayLike, name: str = "vectors", *, are_unit: bool = False
    ) -> None:
        self.vectors: NDArray[Any] = np.asarray(vectors)
        self.name, self.are_unit = name, are_unit
        if self.vectors.ndim != 2 or self.vectors.dtype.kind not in "fiu":
            raise ValueError(
                f"{name} must be numbers of shape (n, dim), found "
                f"{self.vectors.dtype} of shape {self.vectors.shape}"
            )
        self.are_bits = self.vectors.dtype == np.uint8

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Number of columns of the unit vectors: eight per byte of packed bits."""
        return int(self.vectors.shape[1]) * (8 if self.are_bits else 1)

    @property
    def block_size(self) -> int:
        """Number of rows in a block of `BLOCK_BYTES`, at least 64."""
        return max(64, BLOCK_BYTES // (4 * max(1, self.dim)))

    def unit64(self, start: int, stop: int) -> Float64:
        """Unit vectors of rows ``start`` to ``stop - 1`` in float64.

        Raises
        ------
        ValueError
            If a row is not finite.
        """
        return self.checked_unit64(np.arange(start, stop), self.vectors[start:stop])

    def checked_unit64(self, rows: Counts, vectors: NDArray[Any]) -> Float64:
        """Unit vectors in float64 of selected rows, whose indices are ``rows``."""
        unit = self.unit64_of(vectors)
        broken = np.flatnonzero(np.isnan(unit).any(axis=1))
        if len(broken):
            raise ValueError(
                f"{self.name} must be finite, found NaN or infinity in row "
                f"{rows[broken[0]]}"
            )
        return unit

    def unit(self, start: int, stop: int) -> Float32:
        """Unit vectors of rows ``start`` to ``stop - 1`` in float32.

        Raises
        ------
        ValueError
            If a row is not finite.
        """
        if self.are_unit or self.are_bits:
            return self.unit_of(self.vectors[start:stop])
        return self.unit64(start, stop).astype(np.float32)

    def unit_of(self, vectors: NDArray[Any]) -> Float32:
        """Unit vectors of selected rows of the vectors in float32."""
        if self.are_unit:
            return np.asarray(vectors, np.float32)
        if self.are_bits:
            scale = vectors.any(axis=1) / np.sqrt(max(1, self.dim))
            signs = SIGNS[vectors].reshape(len(vectors), self.dim)
            return np.asarray(signs * scale[:, None].astype(np.float32))
        return self.unit64_of(vectors).astype(np.float32)

    def unit64_of(self, vectors: NDArray[Any]) -> Float64:
        """Unit vectors of selected rows in float64; NaN if a row is not finite."""
        rows = as_float64(vectors)
        squares = np.einsum("ij,ij->i", rows, rows)
        squares[squares == 0] = 1
        squares[np.isinf(squares)] = np.nan
        return np.asarray(rows / np.sqrt(squares)[:, None])

    def check_same_dim(self, other: UnitRows) -> None:
        """Raise if other vectors cannot be compared with these.

        Raises
        ------
        ValueError
            If the numbers of columns differ, or only one of both is packed bits.
        """
        if self.dim != other.dim or self.are_bits != other.are_bits:
            kinds = [
                f"{rows.name} {rows.vectors.dtype} of shape {rows.vectors.shape}"
                for rows in (self, other)
            ]
            raise ValueError(
                f"{self.name} and {other.name} must have the same number of columns, "
                "and both or none be packed sign bits (uint8), found "
                f"{' and '.join(kinds)}"
            )

    def cosines(self, rows: Counts, other: UnitRows, other_rows: Counts) -> Float64:
        """Cosines of pairs of rows in float64, as `paired_cosines` computes them."""
        cosines = np.empty(len(rows))
        for start, stop in chunks(len(rows), PAIRS):
            cosines[start:stop] = paired_cosines(
                self.vectors[rows[start:stop]], other.vectors[other_rows[start:stop]]
            )
        return cosines


def error_bound(dim: int) -> float:
    """Largest error of a float32 dot product of two unit vectors.

    ``dim`` roundings in any order of summation, and two of the entries; one more each
    for the float64 arithmetic before (Higham 2002, "Accuracy and stability of numerical
    algorithms", equation 3.5).
    """
    return (dim + 4) * UNIT_ROUNDOFF


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Context manager in which each matrix product runs on one thread."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield
