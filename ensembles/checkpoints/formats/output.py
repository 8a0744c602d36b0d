"""Output files: what a writer of a format receives, and where it sends tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles._typing import Array
from ensembles.atomic_io import preallocate, pwrite_all
from ensembles.checkpoints.formats.checkpoint import (
    ChecksumRecord,
    FileSource,
    Tensor,
)

Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]


class Sink(Protocol):
    """Destination for the bytes of one tensor; threads write to it concurrently."""

    def write(self, buffer: memoryview, offset: int) -> None:
        """Store bytes of the tensor, from its byte ``offset`` on."""


class ArraySink:
    """Writes the bytes of a tensor to a C-contiguous array."""

    def __init__(self, array: Array) -> None:
        self._bytes = array.reshape(-1).view(np.uint8).data

    def write(self, buffer: memoryview, offset: int) -> None:
        """Store bytes of the tensor, from its byte ``offset`` on."""
        self._bytes[offset : offset + len(buffer)] = buffer


class FileSink:
    """Writes the bytes of a tensor to a file, from byte ``start`` on."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._start = start

    def write(self, buffer: memoryview, offset: int) -> None:
        """Store bytes of the tensor, from its byte ``offset`` on."""
        pwrite_all(self._fd, buffer, self._start + offset)


def file_sinks(fd: int, layout: Layout, start: int) -> dict[str, Sink]:
    """Sinks that store tensors in a file without gaps; allocates the disk space.

    Parameters
    ----------
    fd : int
        File descriptor, open for writing.
    layout : mapping of str to (dtype, shape)
        Dtype and shape of each tensor, in the order in which they are stored.
    start : int
        Position in the file of the first tensor, in bytes.

    Returns
    -------
    dict of str to Sink
        Sink of each tensor.

    Raises
    ------
    OSError
        If the disk has less space left.
    """
    sinks: dict[str, Sink] = {}
    for name, (dtype, shape) in layout.items():
        sinks[name] = FileSink(fd, start)
        start += math.prod(shape) * dtype.itemsize
    preallocate(fd, start)
    return sinks


class Template(NamedTuple):
    """A file of the first member that the output copies, except for its tensors.

    Parameters
    ----------
    file : FileSource
        The file.
    tensors : mapping of str to Tensor
        Tensors in the file, with the names, dtypes and shapes of the output's layout.
        Tensors that overlap are the same; strided ones are written where they lie.
    records : sequence of ChecksumRecord
        Checksums in the file, which change with the tensors.
    """

    file: FileSource
    tensors: Mapping[str, Tensor]
    records: Sequence[ChecksumRecord]


@dataclass(frozen=True)
class OutputFile:
    """A weight file to be written: its path, layout and metadata.

    Parameters
    ----------
    path : Path
        Path to write to, a temporary name; the file may exist and is empty.
    name : str
        Path that the file gets when it is complete, for messages.
    layout : mapping of str to (dtype, shape)
        Dtype and shape of each tensor, in the order in which a format without an order
        of its own should store them: aligned by item size, then by name.
    aliases : mapping of str to str
        Additional names for tensors in ``layout`` (tied tensors): alias to name.
    order : sequence of str
        All names, including aliases, in the order of the first member.
    metadata : mapping of str to str
        Provenance of the result, and digests of the file's tensors. The digests are
        zeros until all tensors are written, and the real ones afterwards; the lengths
        stay the same.
    template : Template or None, default=None
        File of the first member that the output copies, except for its tensors. None
        stores only the tensors, and for formats without ``keeps_contents``.
    first : Path or None
        File of the first member, if the output is a file of the same format.
    """

    path: Path
    name: str
    layout: Layout
    aliases: Mapping[str, str]
    order: tuple[str, ...]
    metadata: Mapping[str, str]
    template: Template | None = None
    first: Path | None = None
