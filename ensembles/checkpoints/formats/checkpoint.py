"""Checkpoints in one form for every format: tensor layout, files and metadata."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles.regular_files import open_regular, read_regular

Keys = str | Sequence[str] | None
LARGEST_READ = 1 << 30  # Linux moves at most 2 GiB in one call


class Source(Protocol):
    """Bytes with random access, safe to read from several threads at once."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the source was modified since it was opened."""


class Tensor(NamedTuple):
    """Dtype, shape and location of a stored tensor: little-endian, C-contiguous.

    Parameters
    ----------
    dtype : dtype
        Data type; bfloat16 and float8 are those of ml_dtypes.
    shape : tuple of int
        Shape of the tensor.
    source : Source
        File or array that holds the bytes.
    offset : int
        Position of the first byte in ``source``.
    narrow : dtype or None, default=None
        Dtype of the tensor in a result, for tensors that are computed in a wider one;
        None is ``dtype``.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    source: Source
    offset: int
    narrow: np.dtype[Any] | None = None

    @property
    def result_dtype(self) -> np.dtype[Any]:
        """Dtype of the tensor in a result, unless another one is asked for."""
        return self.dtype if self.narrow is None else self.narrow

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * self.dtype.itemsize


class TensorInfo(NamedTuple):
    """Name, dtype, shape and size of a stored tensor, which need not be supported.

    Parameters
    ----------
    name : str
        Tensor name in the file.
    dtype : str
        Name of the dtype, such as "float32", or as the format spells it.
    shape : tuple of int
        Shape as stored.
    nbytes : int
        Number of bytes of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements, of packed formats the number of stored units."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileContents:
    """Tensors and other contents of a file, from its header alone.

    Parameters
    ----------
    state_dicts : dict of str to list of TensorInfo
        Tensors of each state dict, by its key; the key of a file that is a single
        state dict is empty.
    values : dict of str to str
        Other contents, such as the step or hyperparameters: key to a short text.
    metadata : dict of str to str
        Metadata of the file.
    """

    state_dicts: dict[str, list[TensorInfo]]
    values: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


class FileSource:
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
        status = os.fstat(self._fd)
        self.size = status.st_size
        self._modified = status.st_mtime_ns

    # At the end of the interpreter, modules have no functions anymore.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "_fd"):
            close(self._fd)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        rest = buffer
        while len(rest):
            try:
                n_read = os.preadv(self._fd, [rest[:LARGEST_READ]], offset)
            except OSError as error:  # of the disk or network, without a path
                raise OSError(error.errno, error.strerror, str(self.path)) from None
            if n_read == 0:
                raise ValueError(
                    f"{self.path} ends at byte {offset}, {len(rest)} bytes too early: "
                    "it was truncated, or is still being written; wait until it is "
                    "complete, or copy it again"
                )
            rest, offset = rest[n_read:], offset + n_read

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the file was modified or replaced since it was opened.

        A file that was deleted is complete until it is closed.
        """
        status = os.fstat(self._fd)
        change = ""
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            change = "modified"
        with suppress(OSError):
            if not os.path.samestat(status, os.stat(self.path)):
                change = "replaced"
        if change:
            raise ValueError(
                f"{self.path} was {change} while it was read; wait until it is "
                "complete, and start again"
            )

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset`` on, else raise `ValueError`."""
        if offset < 0 or offset + size > self.size:
            raise ValueError(
                f"{self.path} must have {offset + size} bytes by its header, found "
                f"{self.size}: it was truncated, or its header is wrong; copy or "
                "download it again"
            )
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)


class MemorySource:
    """Bytes of an array in memory.

    Parameters
    ----------
    array : ndarray
        Array, which must not change.
    place : hashable, default=None
        Identifier of the memory, equal for arrays that share it; None if it is not
        known.
    """

    def __init__(self, array: np.ndarray[Any, Any], place: Hashable = None) -> None:
        self.place = place
        self._bytes = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        buffer[:] = self._bytes[offset : offset + len(buffer)]

    def check_unchanged(self) -> None:
        """Do nothing: the caller must not modify the array."""


class UnsupportedSource(NamedTuple):
    """Stands for the bytes of a tensor that cannot be averaged, such as complex ones.

    Parameters
    ----------
    message : str
        Error message with the file, the tensor, and what to do.
    """

    message: str

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Raise `ValueError` with the message."""
        raise ValueError(self.message)

    def check_unchanged(self) -> None:
        """Do nothing: the bytes are not read."""


class ChecksumRecord(NamedTuple):
    """A byte range of a file, with its stored CRC-32 checksum.

    Parameters
    ----------
    file : FileSource
        The file.
    offset : int
        Position of the first byte.
    size : int
        Number of bytes.
    crc : int
        Checksum that is stored in the file.
    name : str
        Name of the range for messages, such as an entry of a zip file.
    """

    file: FileSource
    offset: int
    size: int
    crc: int
    name: str


@dataclass
class Checkpoint:
    """Layout of named tensors, with the configuration and files stored beside them.

    Parameters
    ----------
    name : str
        Name for messages: the path, or ``members[i]`` for a state dict in memory.
    format : str
        Name in `FORMATS` of the format of the (main) weight files. For a state dict in
        memory "pytorch" if it has torch tensors, else "numpy".
    path : Path or None
        Path of the file or directory; None for a state dict in memory.
    layout : dict of str to Tensor
        Every stored tensor, by name. Tensors with shared storage occur once.
    aliases : dict of str to str
        Additional names for tensors in ``layout`` (tied tensors): alias to name.
    order : list of str
        Names and aliases in the order in which they are stored; names that are not in
        it follow. Empty if no order is stored.
    is_directory : bool, default=False
        Whether ``path`` is a directory.
    is_distributed : bool, default=False
        Whether the weight files of a directory hold chunks of tensors, by rank; the
        result does not take their names.
    parts : dict of str to list of str
        Tensor names in each weight file of a directory, by its path relative to
        ``path``; filled in for a single file. A tensor that is distributed over several
        files is listed in the first.
    extras : dict of str to str
        Additional weight files, such as the head in ``value_head.bin``: path relative
        to ``path``, to the prefix of its tensor names.
    whole_files : set of str
        Weight files in ``parts`` that are loaded without an index, so that the result
        must not divide them into shards.
    files : list of str
        Auxiliary files, such as tokenizers, relative to ``path``.
    training_files : list of str
        Files with training state, such as optimizer.pt, relative to ``path``; folders
        with it end in a slash.
    contents : dict of str to bytes
        New contents of auxiliary files, by the names in ``files``; the other files are
        read from ``path``.
    config : dict
        Model or adapter configuration of a Hugging Face directory; otherwise empty.
    metadata : dict of str to str
        Metadata of the file, or of the first weight file with metadata in a directory.
    records : list of ChecksumRecord
        Checksums to verify before the tensors are used.
    keys : tuple of str
        Keys of the state dict that was read from a larger object; empty if the file
        holds a single state dict.
    beside : dict of str to list of str
        Names of the contents of each weight file other than the tensors of its state
        dict, such as "optimizer" and "epoch", by its path relative to ``path``.
    notes : list of str
        Messages about contents that were skipped or chosen, one sentence each, without
        the checkpoint's name.
    made_from : tuple of Checkpoint, default=()
        Checkpoints that the tensors of a virtual one are from, such as a stack of the
        layers of several; empty for others.
    adapters : tuple of Checkpoint, default=()
        Adapters whose updates are added to the tensors when they are read.
    """

    name: str
    format: str
    path: Path | None
    layout: dict[str, Tensor]
    aliases: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    is_directory: bool = False
    is_distributed: bool = False
    parts: dict[str, list[str]] = field(default_factory=dict)
    extras: dict[str, str] = field(default_factory=dict)
    whole_files: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)
    training_files: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    records: list[ChecksumRecord] = field(default_factory=list)
    keys: tuple[str, ...] = ()
    beside: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    made_from: tuple[Checkpoint, ...] = ()
    adapters: tuple[Checkpoint, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            if not name.isascii() and name.encode("utf-8", "replace").decode() != name:
                raise ValueError(
                    f"{self.name}: tensor name {name!r} is not valid text; rename the "
                    "tensor and save the file again"
                )
        if self.path is not None and not self.is_directory:
            self.parts.setdefault(self.path.name, list(self.layout))

    @property
    def is_torch(self) -> bool:
        """Whether the tensors are stored by PyTorch, or torch tensors in memory."""
        return self.format in ("pytorch", "nemo")

    @property
    def state_dict(self) -> str | None:
        """Keys of the state dict in one string, None without keys."""
        return " and ".join(self.keys) or None

    @property
    def names(self) -> list[str]:
        """All tensor names, including aliases, in the order of the checkpoint."""
        names = [*self.layout, *self.aliases]
        every = {*names} if self.order else ()
        return [*dict.fromkeys([*filter(every.__contains__, self.order), *names])]

    @property
    def origins(self) -> tuple[Checkpoint, ...]:
        """Checkpoints that the tensors are read from, then adapters that are added."""
        parts = [origin for part in self.made_from for origin in part.origins]
        return (*(parts or [replace(self, adapters=())]), *self.adapters)

    def tensor(self, name: str) -> Tensor | None:
        """Tensor with a name or alias; None if the checkpoint does not have it."""
        return self.layout.get(self.aliases.get(name, name))

    def read_file(self, name: str) -> bytes:
        """Contents of an auxiliary file, by its name in ``files``."""
        if name in self.contents:
            return self.contents[name]
        return read_regular(Path(str(self.path)) / name)

    def with_files(self, contents: Mapping[str, bytes | None]) -> Checkpoint:
        """Checkpoint with new contents of auxiliary files.

        Parameters
        ----------
        contents : mapping of str to bytes or None
            Contents by file name; None leaves the file out. ``config.json`` also
            replaces the configuration.

        Returns
        -------
        Checkpoint
        """
        written = {name: text for name, text in contents.items() if text is not None}
        kept = [name for name in self.files if name not in contents]
        config = written.get("config.json")
        return replace(
            self,
            files=sorted([*kept, *written]),
            contents={
                **{n: c for n, c in self.contents.items() if n in kept},
                **written,
            },
            config=self.config if config is None else json.loads(config),
        )
