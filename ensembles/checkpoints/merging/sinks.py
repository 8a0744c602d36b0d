"""Where the bytes of a tensor of the result go: memory, or a file."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ensembles._typing import Array
from ensembles.atomic_io import write_at


class Sink(Protocol):
    """A place for the bytes of one tensor, written by several threads at once."""

    def write(self, buffer: memoryview, offset: int) -> None: ...


class ArraySink:
    """Bytes of a tensor in memory."""

    def __init__(self, array: Array) -> None:
        self._bytes = array.reshape(-1).view(np.uint8).data

    def write(self, buffer: memoryview, offset: int) -> None:
        self._bytes[offset : offset + len(buffer)] = buffer


class FileSink:
    """Bytes of a tensor in a file."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._start = start

    def write(self, buffer: memoryview, offset: int) -> None:
        write_at(self._fd, buffer, self._start + offset)
