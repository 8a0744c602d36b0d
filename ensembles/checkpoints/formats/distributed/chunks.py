"""Tensors that are stored as chunks: boxes, each with its bytes in C order."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import Source

MOST_IRREGULAR = 10_000  # chunks that are compared with each other


class Chunk(NamedTuple):
    """A box of a tensor, and where its bytes lie, in C order.

    Parameters
    ----------
    start : tuple of int
        Index of its first element in the tensor.
    shape : tuple of int
        Number of elements along each axis.
    source : Source
        Source of its bytes.
    offset : int, default=0
        Position of its first byte in the source.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    source: Source
    offset: int = 0


class ChunkedSource:
    """Bytes of a tensor in C order, put together from its chunks.

    Parameters
    ----------
    shape : tuple of int
        Shape of the tensor.
    itemsize : int
        Size of an element in bytes.
    chunks : sequence of Chunk
        Chunks that cover the tensor, see `check_chunks`.
    """

    def __init__(
        self, shape: tuple[int, ...], itemsize: int, chunks: Sequence[Chunk]
    ) -> None:
        self._shape = shape
        self._itemsize = itemsize
        self._chunks = chunks
        flat = [_flat_start(shape, chunk) for chunk in chunks]
        self._is_flat = None not in flat
        if self._is_flat:  # such as shards along the first axis
            self._chunks = sorted(chunks, key=lambda chunk: chunk.start)
            self._begins = sorted(
                start * itemsize for start in flat if start is not None
            )
        else:
            self._starts, self._stops = _bounds(chunks)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with whole elements, from byte ``offset`` on."""
        if self._is_flat:
            self._read_flat(buffer, offset)
            return
        items = np.frombuffer(buffer, f"V{self._itemsize}")
        first = offset // self._itemsize
        for start, shape in boxes(self._shape, first, first + len(items)):
            count = math.prod(shape)
            self._fill(items[:count].reshape(shape), start)
            items = items[count:]

    def check_unchanged(self) -> None:
        """Raise `ValueError` if a file was modified since it was opened."""
        for source in {chunk.source for chunk in self._chunks}:
            source.check_unchanged()

    def _read_flat(self, buffer: memoryview, offset: int) -> None:
        """Read from chunks that lie one after the other in the tensor."""
        index = bisect_right(self._begins, offset) - 1
        while len(buffer):
            chunk, inside = self._chunks[index], offset - self._begins[index]
            part = buffer[: math.prod(chunk.shape) * self._itemsize - inside]
            chunk.source.read_into(part, chunk.offset + inside)
            buffer, offset, index = buffer[len(part) :], offset + len(part), index + 1

    def _fill(self, box: Array, start: tuple[int, ...]) -> None:
        """Fill a box of the tensor with the shared parts of the chunks.

        A box has one index on the first axes, a range on the next, and all of the last:
        so the elements that it shares with a chunk are neighbors in the chunk.
        """
        lower = np.maximum(self._starts, start)
        upper = np.minimum(self._stops, np.add(start, box.shape))
        for index in np.flatnonzero((lower < upper).all(1)).tolist():
            chunk = self._chunks[index]
            inside = zip(lower[index] - start, upper[index] - start, strict=True)
            region: Any = (..., *(slice(begin, end) for begin, end in inside))
            target = box[region]
            position = 0
            for length, along in zip(
                chunk.shape, lower[index] - self._starts[index], strict=True
            ):
                position = position * length + int(along)
            is_direct = target.flags.c_contiguous
            part = target if is_direct else np.empty(target.shape, box.dtype)
            chunk.source.read_into(
                part.reshape(-1).view(np.uint8).data,
                chunk.offset + position * self._itemsize,
            )
            if not is_direct:
                target[...] = part


def _flat_start(shape: tuple[int, ...], chunk: Chunk) -> int | None:
    """Position of a chunk in C order; None if others lie between its elements."""
    size, position = 1, 0
    is_whole = True  # along the axes so far, from the last one
    for length, along, start in zip(
        reversed(shape), reversed(chunk.shape), reversed(chunk.start), strict=True
    ):
        if not is_whole and along > 1:
            return None
        is_whole &= along == length
        position += start * size
        size *= length
    return position


def boxes(
    shape: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Divide elements that are neighbors in C order into boxes.

    Parameters
    ----------
    shape : tuple of int
        Shape of the tensor.
    start, stop : int
        Positions of the first element and behind the last, in C order.

    Yields
    ------
    start : tuple of int
        Index of the first element of a box.
    shape : tuple of int
        Shape of the box: 1 on the first axes, all of the tensor on the last.
    """
    sizes = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    while start < stop:
        # The first axis whose steps begin at ``start`` and fit before ``stop``.
        axis = next(
            (
                axis
                for axis, size in enumerate(sizes)
                if start % size == 0 and start + size <= stop
            ),
            None,
        )
        index = tuple(
            start // size % length for size, length in zip(sizes, shape, strict=True)
        )
        if axis is None:  # a tensor of a single element has no axes
            yield (), ()
            return
        count = min((stop - start) // sizes[axis], shape[axis] - index[axis])
        yield index, (*(1,) * axis, count, *shape[axis + 1 :])
        start += count * sizes[axis]


def check_chunks(
    shape: tuple[int, ...], chunks: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> str | None:
    """Reason why chunks do not cover a tensor exactly once.

    Parameters
    ----------
    shape : tuple of int
        Shape of the tensor.
    chunks : sequence of (start, shape)
        Index of the first element and shape of each chunk, none of them empty.

    Returns
    -------
    str or None
        End of a sentence; None if they cover it.
    """
    for start, sizes in chunks:
        if len(start) != len(shape) or len(sizes) != len(shape):
            return (
                f"its chunk at {start} has {len(sizes)} axes, the tensor {len(shape)}"
            )
        ends = [begin + size for begin, size in zip(start, sizes, strict=True)]
        if any(end > length for end, length in zip(ends, shape, strict=True)):
            return (
                f"its chunk at {start} of shape {sizes} is not inside of the shape "
                f"{shape}"
            )
    n_stored, n_needed = sum(math.prod(s) for _, s in chunks), math.prod(shape)
    if n_stored < n_needed:
        return f"its chunks have {n_stored} of {n_needed} elements; a rank is missing"
    if not n_needed:
        return None
    if n_stored > n_needed or not (_is_grid(shape, chunks) or _are_apart(chunks)):
        return "its chunks overlap"
    return None


def _bounds(chunks: Sequence[Any]) -> tuple[Array, Array]:
    """Starts and stops of chunks, arrays of shape (n_chunks, n_axes)."""
    n_axes = len(chunks[0][0]) if chunks else 0
    starts = np.array([chunk[0] for chunk in chunks], np.int64)
    sizes = np.array([chunk[1] for chunk in chunks], np.int64)
    starts, sizes = (array.reshape(len(chunks), n_axes) for array in (starts, sizes))
    return starts, starts + sizes


def _is_grid(shape: tuple[int, ...], chunks: Sequence[Any]) -> bool:
    """Whether chunks are different cells of one grid, as on a mesh of devices."""
    starts, stops = _bounds(chunks)
    for axis, length in enumerate(shape):
        edges = np.append(np.unique(starts[:, axis]), length)
        following = edges[np.searchsorted(edges, starts[:, axis], side="right")]
        if (following != stops[:, axis]).any():
            return False
    return len({tuple(start) for start in starts.tolist()}) == len(chunks)


def _are_apart(chunks: Sequence[Any]) -> bool:
    """Whether no two chunks have an element in common, by comparing all pairs."""
    if len(chunks) > MOST_IRREGULAR:
        return False
    starts, stops = _bounds(chunks)
    for index in range(1, len(chunks)):
        shared = (starts[:index] < stops[index]) & (starts[index] < stops[:index])
        if shared.all(1).any():
            return False
    return True
