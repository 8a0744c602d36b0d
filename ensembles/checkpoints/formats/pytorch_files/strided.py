"""Tensors that are strided views of their storage: transposed, sliced or expanded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import FileSource

LONGEST = 1 << 20  # bytes that are read at once, with the gaps between elements
Box = tuple[tuple[int, ...], tuple[int, ...]]  # first index and length along each axis


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
        items = np.frombuffer(buffer, f"u{self._itemsize}")
        first = offset // self._itemsize
        for index, lengths in _boxes(self._shape, first, first + len(items)):
            n_items = math.prod(lengths)
            start = sum(i * step for i, step in zip(index, self._strides, strict=True))
            self._copy(items[:n_items].reshape(lengths), start)
            items = items[n_items:]

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the file was modified since it was opened."""
        self._file.check_unchanged()

    def _copy(self, box: Array, start: int) -> None:
        """Read a box whose first element is at position ``start`` of the storage."""
        extents = [
            (n - 1) * step for n, step in zip(box.shape, self._strides, strict=True)
        ]
        n_items = sum(extents) + 1
        if n_items * self._itemsize <= LONGEST:
            data = np.empty(n_items, box.dtype)
            place = self._start + start * self._itemsize
            self._file.read_into(data.view(np.uint8).data, place)
            steps = [step * self._itemsize for step in self._strides]
            box[...] = as_strided(data, box.shape, steps)
            return
        axis = extents.index(max(extents))
        half = box.shape[axis] // 2
        first, second = np.split(box, [half], axis)
        self._copy(first, start)
        self._copy(second, start + half * self._strides[axis])


def _boxes(shape: tuple[int, ...], first: int, stop: int) -> Iterator[Box]:
    """Divide elements that are consecutive in C order into boxes of the tensor."""
    inner = math.prod(shape[1:])
    while first < stop:
        index, within = divmod(first, inner)
        n_whole = (stop - first) // inner
        if within or not n_whole:
            end = min(stop, first + inner - within)
            for starts, lengths in _boxes(shape[1:], within, within + end - first):
                yield (index, *starts), (1, *lengths)
        else:
            end = first + n_whole * inner
            yield (index, *(0 for _ in shape[1:])), (n_whole, *shape[1:])
        first = end
