"""Destinations for the bytes of a result's tensors: arrays and files."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ensembles._typing import Array
from ensembles.atomic_io import write_at


class Sink(Protocol):
    """Destination for the bytes of one tensor; threads write to it concurrently."""

    def write(self, buffer: memoryview, offset: int) -> None: ...


class ArraySink:
    """Writes the bytes of a tensor to a C-contiguous array."""

    def __init__(self, array: Array) -> None:
        self._bytes = array.reshape(-1).view(np.uint8).data

    def write(self, buffer: memoryview, offset: int) -> None:
        self._bytes[offset : offset + len(buffer)] = buffer


class FileSink:
    """Writes the bytes of a tensor to a file, from byte ``start`` on."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._start = start

    def write(self, buffer: memoryview, offset: int) -> None:
        write_at(self._fd, buffer, self._start + offset)
