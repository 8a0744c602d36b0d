"""Tensors whose rows are copies and means of rows of other tensors."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.dtypes import round_to_dtype
from ensembles.parallel import chunks

ZERO, MEAN = -1, -2  # in place of the number of a part
SMALL = 1 << 20  # bytes; a part is read whole, because its rows are only a few bytes
STEP = 4 << 20  # bytes of rows that are read at once for their mean


class GatheredRows:
    """Source of a tensor whose rows come from several others, read when needed.

    Parameters
    ----------
    parts : sequence of Tensor
        Tensors with rows of the same shape.
    part : ndarray of shape (n_rows,), integers
        Number of the part that each row is copied from; `ZERO` for a row of zeros,
        `MEAN` for the mean of the rows of all parts that have the token.
    row : ndarray of shape (n_rows,), integers
        Row in that part.
    rows : ndarray of shape (n_parts, n_rows), integers
        Row of each part with the same token, for `MEAN`; -1 if it lacks the token.
    axis : int, default=0
        Axis of the rows; all axes before it have size 1.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        part: np.ndarray[Any, Any],
        row: np.ndarray[Any, Any],
        rows: np.ndarray[Any, Any],
        *,
        axis: int = 0,
    ) -> None:
        self.dtype = common_dtype(parts)
        self.row_shape = parts[0].shape[axis + 1 :]
        self._lead = parts[0].shape[:axis]
        self._parts, self._part, self._row, self._rows = parts, part, row, rows
        self._row_size = math.prod(self.row_shape)

    @property
    def tensor(self) -> Tensor:
        """The gathered tensor."""
        shape = (*self._lead, len(self._part), *self.row_shape)
        return Tensor(self.dtype, shape, self, 0)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        size = self._row_size * self.dtype.itemsize
        position = 0
        while position < len(buffer):
            row, skipped = divmod(offset + position, size)
            rest = len(buffer) - position
            n_bytes = rest - rest % size
            if skipped or rest < size:  # a part of a row
                n_bytes = min(size - skipped, rest)
                edge = memoryview(bytearray(size))
                self._read_rows(row, edge)
                buffer[position : position + n_bytes] = edge[skipped:][:n_bytes]
            else:
                self._read_rows(row, buffer[position : position + n_bytes])
            position += n_bytes

    def check_unchanged(self) -> None:
        """Raise `ValueError` if a file was modified since it was opened."""
        for source in {tensor.source for tensor in self._parts}:
            source.check_unchanged()

    def _read_rows(self, first: int, buffer: memoryview) -> None:
        """Fill the buffer with whole rows."""
        out = np.frombuffer(buffer, np.uint8).view(self.dtype)
        out = out.reshape(-1, self._row_size)
        part = self._part[first : first + len(out)]
        out[part == ZERO] = 0
        for number, tensor in enumerate(self._parts):
            (positions,) = np.nonzero(part == number)
            if len(positions):
                _copy_rows(tensor, self._row[first + positions], out, positions)
        for position in np.flatnonzero(part == MEAN):
            out[position] = self._mean_row(first + int(position))

    def _mean_row(self, token: int) -> Array:
        total = np.zeros(self._row_size)
        column = self._rows[:, token]
        row = np.empty((1, self._row_size), self.dtype)
        for number in np.flatnonzero(column >= 0):
            rows, positions = column[[number]], np.zeros(1, int)
            _copy_rows(self._parts[int(number)], rows, row, positions)
            total += row[0].astype(np.float64)
        return round_to_dtype(total / np.count_nonzero(column >= 0), self.dtype)


class ComputedTensor:
    """Source of a tensor that is computed when it is first read, and kept.

    Parameters
    ----------
    compute : callable () -> ndarray
        Function that returns the array.
    tensors : sequence of Tensor
        Tensors that it is computed from.
    dtype : dtype
        Dtype of the array.
    shape : tuple of int
        Its shape.
    """

    def __init__(
        self,
        compute: Callable[[], Array],
        tensors: Sequence[Tensor],
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> None:
        self.tensor = Tensor(dtype, shape, self, 0)
        self._compute, self._tensors = compute, tensors
        self._lock = threading.Lock()
        self._bytes: memoryview | None = None

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        with self._lock:
            if self._bytes is None:
                array = np.ascontiguousarray(self._compute())
                self._bytes = array.view(np.uint8).reshape(-1).data
        buffer[:] = self._bytes[offset : offset + len(buffer)]

    def check_unchanged(self) -> None:
        """Raise `ValueError` if a file was modified since it was opened."""
        for source in {tensor.source for tensor in self._tensors}:
            source.check_unchanged()


def mean_row(tensor: Tensor, *, axis: int = 0) -> Tensor:
    """Mean of all rows of a tensor, computed when it is first read.

    Parameters
    ----------
    tensor : Tensor
        Floating-point tensor.
    axis : int, default=0
        Axis of the rows; all axes before it have size 1.

    Returns
    -------
    Tensor
        With a single row.
    """
    shape = (*tensor.shape[:axis], 1, *tensor.shape[axis + 1 :])
    compute = lambda: round_to_dtype(_mean(tensor, axis), tensor.dtype)  # noqa: E731
    return ComputedTensor(compute, [tensor], tensor.dtype, shape).tensor


def _mean(tensor: Tensor, axis: int) -> Float64:
    n_rows = tensor.shape[axis]
    row_size = tensor.size // n_rows
    total = np.zeros(row_size)
    step = max(STEP // (row_size * tensor.dtype.itemsize), 1)
    for start, stop in chunks(n_rows, step):
        total += read_rows(tensor, start, stop, axis=axis).astype(np.float64).sum(0)
    return total / n_rows


def read_rows(tensor: Tensor, start: int, stop: int, *, axis: int = 0) -> Array:
    """Read consecutive rows of a tensor.

    Parameters
    ----------
    tensor : Tensor
        Tensor to read.
    start, stop : int
        First row, and the row after the last.
    axis : int, default=0
        Axis of the rows; all axes before it have size 1.

    Returns
    -------
    ndarray of shape (stop - start, row size)
    """
    row_size = tensor.size // tensor.shape[axis]
    rows = np.empty((stop - start, row_size), tensor.dtype)
    position = tensor.offset + start * row_size * tensor.dtype.itemsize
    tensor.source.read_into(rows.view(np.uint8).reshape(-1).data, position)
    return rows


def _copy_rows(
    tensor: Tensor,
    rows: np.ndarray[Any, Any],
    out: Array,
    positions: np.ndarray[Any, Any],
) -> None:
    """Read rows of a tensor to positions of an array, consecutive ones at once."""
    if tensor.nbytes <= SMALL:
        flat = np.empty((1, tensor.size), tensor.dtype)
        tensor.source.read_into(flat.view(np.uint8).reshape(-1).data, tensor.offset)
        out[positions] = flat.reshape(-1, out.shape[1])[rows]
        return
    ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(positions) != 1)) + 1
    row_nbytes = out.shape[1] * tensor.dtype.itemsize
    for start, stop in zip([0, *ends], [*ends, len(rows)], strict=True):
        block = out[positions[start] : positions[start] + stop - start]
        offset = tensor.offset + int(rows[start]) * row_nbytes
        if tensor.dtype == out.dtype:
            tensor.source.read_into(block.view(np.uint8).reshape(-1).data, offset)
        else:
            stored = np.empty(block.shape, tensor.dtype)
            tensor.source.read_into(stored.view(np.uint8).reshape(-1).data, offset)
            block[:] = stored


def common_dtype(tensors: Sequence[Tensor]) -> np.dtype[Any]:
    """Smallest dtype that represents the values of all tensors."""
    dtypes = [*dict.fromkeys(tensor.dtype for tensor in tensors)]
    try:
        return np.result_type(*dtypes)
    except TypeError:  # bfloat16 with float16, and float8
        return np.dtype(np.float32)
