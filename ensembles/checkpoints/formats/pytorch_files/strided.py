"""Tensors that are strided views of their storage: transposed, sliced or expanded."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ensembles._typing import Array
from ensembles.atomic_io import pwrite_all
from ensembles.checkpoints.formats.checkpoint import FileSource, Tensor

LONGEST = 1 << 20  # bytes that are read or written at once, with gaps between elements
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
        self.file = file
        self._start = start
        self._shape = shape
        self._strides = strides
        self._itemsize = itemsize

    @property
    def range(self) -> tuple[int, int]:
        """Position in the file of the first byte, and the end of the last element."""
        n_items = self._extent(self._shape)
        return self._start, self._start + n_items * self._itemsize

    @property
    def has_own_bytes(self) -> bool:
        """Whether no two elements are at the same position, by a sufficient test."""
        extent = 1
        for stride, length in sorted(zip(self._strides, self._shape, strict=True)):
            if length > 1 and stride < extent:
                return False
            extent += (length - 1) * stride
        return True

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with whole elements, from byte ``offset`` on."""
        for box, place in self._pieces(np.frombuffer(buffer, np.uint8), offset):
            data = np.empty(self._extent(box.shape), box.dtype)
            self.file.read_into(data.view(np.uint8).data, place)
            box[...] = self._view(data, box.shape)

    def write_from(self, buffer: memoryview, offset: int, fd: int) -> None:
        """Store whole elements, from byte ``offset`` on, in a copy of the file.

        The bytes between them are read and written again: no other thread must write
        to these meanwhile.
        """
        for box, place in self._pieces(np.frombuffer(buffer, np.uint8), offset):
            data = np.empty(self._extent(box.shape), box.dtype)
            raw = data.view(np.uint8).data
            if os.preadv(fd, [raw], place) != len(raw):
                raise ValueError(f"the copy of {self.file.path} must have its size")
            self._view(data, box.shape)[...] = box
            pwrite_all(fd, raw, place)

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the file was modified since it was opened."""
        self.file.check_unchanged()

    def _pieces(self, data: Array, offset: int) -> Iterator[tuple[Array, int]]:
        """Divide elements in C order into boxes, with the position of each."""
        items = data.view(f"u{self._itemsize}")
        first = offset // self._itemsize
        for index, lengths in _boxes(self._shape, first, first + len(items)):
            n_items = math.prod(lengths)
            start = sum(i * step for i, step in zip(index, self._strides, strict=True))
            yield from self._parts(items[:n_items].reshape(lengths), start)
            items = items[n_items:]

    def _parts(self, box: Array, start: int) -> Iterator[tuple[Array, int]]:
        """Divide a box whose first element is at position ``start`` of the storage."""
        if self._extent(box.shape) * self._itemsize <= LONGEST:
            yield box, self._start + start * self._itemsize
            return
        extents = [
            (n - 1) * step for n, step in zip(box.shape, self._strides, strict=True)
        ]
        axis = extents.index(max(extents))
        half = box.shape[axis] // 2
        first, second = np.split(box, [half], axis)
        yield from self._parts(first, start)
        yield from self._parts(second, start + half * self._strides[axis])

    def _extent(self, lengths: tuple[int, ...]) -> int:
        """Number of elements of the storage from the first of a box to its last."""
        return 1 + sum(
            (length - 1) * step
            for length, step in zip(lengths, self._strides, strict=True)
        )

    def _view(self, data: Array, lengths: tuple[int, ...]) -> Array:
        return as_strided(data, lengths, [n * self._itemsize for n in self._strides])


class StridedSink:
    """Writes the bytes of a tensor in C order to a strided view of a file's copy.

    Parameters
    ----------
    source : StridedSource
        View of the file.
    fd : int
        Descriptor of the copy, open for reading and writing.
    """

    def __init__(self, source: StridedSource, fd: int) -> None:
        self._source = source
        self._fd = fd
        self._lock = threading.Lock()

    def write(self, buffer: memoryview, offset: int) -> None:
        """Store bytes of the tensor, from its byte ``offset`` on."""
        with self._lock:
            self._source.write_from(buffer, offset, self._fd)


class FileRange(NamedTuple):
    """Part of a file that contains the elements of a tensor.

    Parameters
    ----------
    file : FileSource
        The file.
    start : int
        Position of the first byte.
    stop : int
        End of the last element.
    is_dense : bool
        Whether the range consists of the elements in C order.
    """

    file: FileSource
    start: int
    stop: int
    is_dense: bool


def file_range(tensor: Tensor) -> FileRange | None:
    """Range of a file with the elements of a tensor.

    Parameters
    ----------
    tensor : Tensor
        Tensor of a PyTorch file.

    Returns
    -------
    FileRange or None
        None if two elements may have the same bytes, as in an expanded tensor.
    """
    source = tensor.source
    if isinstance(source, FileSource):
        return FileRange(source, tensor.offset, tensor.offset + tensor.nbytes, True)
    if isinstance(source, StridedSource) and source.has_own_bytes:
        return FileRange(source.file, *source.range, False)
    return None


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
