"""Tensors that are strided views of their storage: transposed, sliced or expanded."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import FileSource

BLOCK = 1 << 16  # elements that are looked up at once
GAP = 1 << 12  # bytes; reading them takes about as long as another system call


class StridedSource:
    """Bytes of a strided tensor in C order, gathered from a file.

    Parameters
    ----------
    file : FileSource
        File that contains the storage.
    start : int
        Position of the first element in the file, in bytes.
    shape : tuple of int
        Shape of the tensor.
    strides : tuple of int
        Distance between neighbors along each axis, in elements.
    itemsize : int
        Size of an element in bytes.
    """

    def __init__(
        self,
        file: FileSource,
        start: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        itemsize: int,
    ) -> None:
        self._file = file
        self._start = start
        self._shape = shape
        self._strides = strides
        self._itemsize = itemsize

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with whole elements, from byte ``offset`` on."""
        items = np.frombuffer(buffer, f"V{self._itemsize}")
        first = offset // self._itemsize
        for start in range(0, len(items), BLOCK):
            block = items[start : start + BLOCK]
            self._gather(block, self._positions(first + start, len(block)))

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the file was modified since it was opened."""
        self._file.check_unchanged()

    def _positions(self, first: int, count: int) -> Array:
        """Positions in the storage of elements that are neighbors in C order."""
        index = np.arange(first, first + count)
        positions = np.zeros(count, np.int64)
        for length, stride in zip(
            reversed(self._shape), reversed(self._strides), strict=True
        ):
            index, along = np.divmod(index, length)
            positions += along * stride
        return positions

    def _gather(self, items: Array, positions: Array) -> None:
        """Read the elements at the positions, those close together at once."""
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        far = np.flatnonzero(np.diff(ordered) * self._itemsize > GAP) + 1
        for chunk in np.split(np.arange(len(order)), far):
            begin, end = ordered[chunk[0]], ordered[chunk[-1]] + 1
            data = np.empty(end - begin, items.dtype)
            start = self._start + int(begin) * self._itemsize
            self._file.read_into(data.view(np.uint8).data, start)
            items[order[chunk]] = data[ordered[chunk] - begin]
