"""Checkpoints in one form for every format: tensor layout, files and metadata."""

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
    """Bytes with random access, safe to read from several threads at once."""

    def read_into(self, buffer: memoryview, offset: int) -> None: ...

    def check_unchanged(self) -> None: ...


class Tensor(NamedTuple):
    """Dtype, shape and location of a stored tensor: little-endian, C-contiguous."""

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
    """A regular file, read by offset.

    Parameters
    ----------
    path : Path
        Path of the file; it stays open until the object is deleted.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the path is not a regular file: opening a pipe would wait forever.
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
        """Raise `ValueError` if the file was modified since it was opened."""
        found = os.fstat(self._fd)
        if (found.st_size, found.st_mtime_ns) != (self.size, self._changed):
            raise ValueError(
                f"{self.path} was changed while it was read; wait until it is written"
            )

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset`` on, else raise `ValueError`."""
        if offset < 0 or offset + size > self.size:
            raise ValueError(
                f"{self.path} has {self.size} bytes, its header asks for "
                f"{offset + size}; it was cut short, or its header is wrong"
            )
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)


class Memory:
    """Bytes of an array in memory."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._bytes = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        buffer[:] = self._bytes[offset : offset + len(buffer)]

    def check_unchanged(self) -> None:
        """Do nothing: the caller must not modify the array."""


class Record(NamedTuple):
    """A byte range of a file, with its stored CRC-32 checksum."""

    file: File
    offset: int
    size: int
    crc: int
    name: str


@dataclass(frozen=True)
class Checkpoint:
    """Layout of named tensors, with the configuration and files stored beside them.

    Parameters
    ----------
    name : str
        Name for messages: the path, or ``members[i]`` for a state dict in memory.
    kind : {"file", "directory", "numpy", "torch"}
        Type of the checkpoint; "numpy" and "torch" are state dicts in memory.
    path : Path or None
        Path of the file or directory; None for a state dict in memory.
    layout : dict of str to Tensor
        Every stored tensor, by name. Tensors with shared storage occur once.
    aliases : dict of str to str
        Additional names for tensors in ``layout`` (tied tensors): alias to name.
    parts : dict of str to list of str
        Tensor names in each weight file, by its path relative to ``path``.
    extras : dict of str to str
        Weight files beside the main ones, such as the head in ``value_head.bin``: path
        relative to ``path``, to the prefix of its tensor names.
    files : list of str
        Small files beside the weight files, such as tokenizers, relative to ``path``.
    config : dict
        Model or adapter configuration of a Hugging Face directory; otherwise empty.
    metadata : dict of str to str
        Metadata of a safetensors file, or of the first weight file with metadata in a
        directory.
    records : list of Record
        Checksums to verify before the tensors are used.
    state_dict : str or None
        Key of the state dict that was read from a larger object; None if the file
        holds a single state dict.
    notes : list of str
        Messages about contents that were skipped or chosen, one sentence each, without
        the checkpoint's name.
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
        """Whether the checkpoint is a PyTorch file or a state dict of torch tensors."""
        return self.kind == "torch" or bool(self.records)

    @property
    def names(self) -> list[str]:
        """All tensor names, including aliases."""
        return [*self.layout, *self.aliases]

    def tensor(self, name: str) -> Tensor | None:
        """Tensor with a name or alias; None if the checkpoint does not have it."""
        return self.layout.get(self.aliases.get(name, name))
