"""What every format is read into: a layout of tensors, and the files around it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles.regular_files import open_regular

LARGEST_READ = 1 << 30  # Linux moves at most 2 GiB in one call


class Source(Protocol):
    """Bytes that can be read from any place, by several threads at once."""

    def read_into(self, buffer: memoryview, offset: int) -> None: ...

    def check_unchanged(self) -> None: ...


class Tensor(NamedTuple):
    """Where a tensor's bytes lie: little-endian, in C order, without gaps."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    source: Source
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * self.dtype.itemsize


class File:
    """A regular file, read by position.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is no regular file: opening a pipe would wait forever.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_regular(path)
        found = os.fstat(self._fd)
        self.size = found.st_size
        self._changed = found.st_mtime_ns

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        left = buffer
        while len(left):
            n_read = os.preadv(self._fd, [left[:LARGEST_READ]], offset)
            if n_read == 0:
                raise ValueError(
                    f"{self.path} ends at byte {offset}, {len(left)} bytes too early; "
                    "it was cut short, or is still being written"
                )
            left, offset = left[n_read:], offset + n_read

    def check_unchanged(self) -> None:
        """Raise if the file was written to since it was opened."""
        found = os.fstat(self._fd)
        if (found.st_size, found.st_mtime_ns) != (self.size, self._changed):
            raise ValueError(
                f"{self.path} was changed while it was read; wait until it is written"
            )

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset`` on, of which there must be ``size``."""
        if offset < 0 or offset + size > self.size:
            raise ValueError(
                f"{self.path} has {self.size} bytes, its header asks for "
                f"{offset + size}; it was cut short, or its header is wrong"
            )
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)


class Memory:
    """An array's bytes."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._bytes = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        buffer[:] = self._bytes[offset : offset + len(buffer)]

    def check_unchanged(self) -> None:
        """Trust who holds the array."""


class Record(NamedTuple):
    """A stretch of a file and the CRC-32 that was stored with it."""

    file: File
    offset: int
    size: int
    crc: int
    name: str


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, and what lies around them.

    Parameters
    ----------
    name : str
        For messages: the path, or which of the members it is.
    kind : {"file", "directory", "numpy", "torch"}
        The last two are state dicts in memory.
    path : Path or None
    layout : dict of str to Tensor
        Every tensor that is stored, once.
    aliases : dict of str to str
        Further names of tensors in the layout, whose storage they share.
    parts : dict of str to list of str
        The names in each file of weights, by its path relative to ``path``.
    extras : dict of str to str
        Files of weights beside the main ones, as a head in ``value_head.bin``: by the
        path, what the names of its tensors begin with.
    files : list of str
        Small files around the weights, relative to ``path``.
    config : dict
        Of a Hugging Face directory.
    metadata : dict of str to str
        Of a safetensors file, or of the first file of weights of a directory.
    records : list of Record
        Checksums to verify before the tensors are used.
    state_dict : str or None
        Key of the state dict that was taken from a file that holds more; None if the
        file is one state dict.
    notes : list of str
        What was left out of the path, or chosen among several in it: one sentence
        each, without the checkpoint's name.
    """

    name: str
    kind: str
    path: Path | None
    layout: dict[str, Tensor]
    aliases: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)
    extras: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    state_dict: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_torch(self) -> bool:
        """Whether it was torch that made it."""
        return self.kind == "torch" or bool(self.records)

    @property
    def names(self) -> list[str]:
        """Names of all tensors, those that share storage included."""
        return [*self.layout, *self.aliases]
