"""Tensors of a distributed checkpoint, from the items in its files."""

from __future__ import annotations

import errno
import math
from collections.abc import Hashable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles.checkpoints.formats import detection
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    FileSource,
    Source,
    Tensor,
)
from ensembles.checkpoints.formats.distributed.chunks import (
    Chunk,
    ChunkedSource,
    check_chunks,
)
from ensembles.checkpoints.formats.distributed.metadata import (
    NAME,
    DistributedMetadata,
    Item,
    ShardedTensor,
)
from ensembles.checkpoints.formats.pytorch_files.reading import read_file, stored_at
from ensembles.checkpoints.formats.pytorch_files.strided import StridedSource
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor
from ensembles.checkpoints.formats.state_dict import dtype_named
from ensembles.checkpoints.formats.zip_files.crc import checksum, combine, crc32
from ensembles.checkpoints.formats.zip_files.records import (
    DESCRIPTOR,
    HAS_DESCRIPTOR,
    LOCAL,
)

LONGEST_HEAD = 1 << 13  # bytes of an item before its tensor; torch writes up to 2 KiB
FOREIGN = "the files are of different checkpoints, or damaged; copy them again"
Heads = dict[Hashable, bytes]  # by size, dtype and shape of the item


def open_tensors(
    folder: Path, metadata: DistributedMetadata, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Layout of tensors of a distributed checkpoint.

    Parameters
    ----------
    folder : Path
        Folder with the files of all ranks.
    metadata : DistributedMetadata
        Description of the checkpoint.
    names : mapping of str to str
        Name of each tensor, for messages and the result, to its full name in
        ``metadata``.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ValueError
        If the chunks of a tensor do not cover it exactly once, an item is too small for
        its chunk, or a file is missing or too short.
    """
    _check(folder, {name: metadata.tensors[full] for name, full in names.items()})
    reader = _Reader(folder, _open_files(folder, metadata, set(names.values())))
    reader.check_overlaps({full: metadata.tensors[full] for full in names.values()})
    return {
        name: reader.tensor(name, full, metadata.tensors[full])
        for name, full in names.items()
    }


def _check(folder: Path, tensors: Mapping[str, ShardedTensor]) -> None:
    """Check that the chunks cover the tensors, and have as many bytes."""
    for name, tensor in tensors.items():
        where = f"{folder}: tensor {name!r}"
        chunks = [(item.start, item.shape) for item in tensor.items]
        problem = check_chunks(tensor.shape, chunks)
        if problem:
            raise ValueError(f"{where} is not complete or damaged: {problem}")
        itemsize = dtype_named(tensor.dtype, where).itemsize
        for item in tensor.items:
            n_bytes = math.prod(item.shape) * itemsize
            if item.end - item.begin < n_bytes:
                raise ValueError(
                    f"{where} is damaged: its chunk at {item.start} needs {n_bytes} "
                    f"bytes, its item in {item.file} has {item.end - item.begin}"
                )


def _open_files(
    folder: Path, metadata: DistributedMetadata, wanted: set[str]
) -> dict[str, FileSource]:
    """Open the files of the tensors; all files must be as long as their items need."""
    ends: dict[str, int] = {}
    used: set[str] = set()
    for full_name, tensor in metadata.tensors.items():
        for item in tensor.items:
            ends[item.file] = max(ends.get(item.file, 0), item.end)
            if full_name in wanted:
                used.add(item.file)
    files: dict[str, FileSource] = {}
    for name, end in sorted(ends.items()):
        path = folder / name
        if not path.exists():
            if name not in used:  # its items are those of the optimizer
                continue
            raise ValueError(
                f"{folder} is not complete: {name}, which {NAME} names, does not "
                "exist; copy the files of all ranks into one folder"
            )
        try:
            file = FileSource(path)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise ValueError(
                f"{folder} has {len(ends)} files, and no more can be open at the same "
                "time; raise the limit with ulimit -n"
            ) from None
        if file.size < end:
            raise ValueError(
                f"{folder} is not complete: {name} must have at least {end} bytes by "
                f"{NAME}, found {file.size}; copy or save it again"
            )
        if name in used:
            files[name] = file
    return files


class _Reader:
    """Files of a distributed checkpoint, and what their items have in common."""

    def __init__(self, folder: Path, files: Mapping[str, FileSource]) -> None:
        self.folder = folder
        self.files = files
        self.heads: Heads = {}
        # Of SerializationFormat.SAFETENSORS: one file a rank, with a header of its own.
        self.safetensors: dict[str, Checkpoint] = {
            name: detection.read(file.path)
            for name, file in files.items()
            if detection.detect(file.path) is FORMATS["safetensors"]
        }

    def check_overlaps(self, tensors: Mapping[str, ShardedTensor]) -> None:
        """Check that no two chunks have bytes in common: tensors never exceed files.

        In a safetensors file, items have no positions, and one chunk a tensor.
        """
        places: dict[str, list[tuple[int, int, str]]] = {}
        for full_name, tensor in tensors.items():
            for item in tensor.items:
                place = (item.begin, item.end, full_name)
                places.setdefault(item.file, []).append(place)
        for file, items in places.items():
            items.sort()
            for first, second in pairwise(items):
                is_shared = first[2] == second[2]
                if file not in self.safetensors:
                    is_shared = first[1] > second[0]
                if is_shared:
                    raise ValueError(
                        f"{self.folder / file}: the items of {first[2]!r} and "
                        f"{second[2]!r} overlap; {FOREIGN}"
                    )

    def tensor(self, name: str, full_name: str, tensor: ShardedTensor) -> Tensor:
        """The tensor with a name in messages, and another in the files."""
        dtype = dtype_named(tensor.dtype, f"{self.folder}: tensor {name!r}")
        chunks = [self._chunk(name, full_name, item, dtype) for item in tensor.items]
        if len(chunks) == 1:
            return Tensor(dtype, tensor.shape, chunks[0].source, chunks[0].offset)
        source = ChunkedSource(tensor.shape, dtype.itemsize, chunks)
        return Tensor(dtype, tensor.shape, source, 0)

    def _chunk(
        self, name: str, full_name: str, item: Item, dtype: np.dtype[Any]
    ) -> Chunk:
        where = f"{self.folder / item.file}: tensor {name!r}"
        if item.file in self.safetensors:
            stored = self.safetensors[item.file].layout.get(full_name)
            if stored is None or (stored.dtype, stored.shape) != (dtype, item.shape):
                raise ValueError(
                    f"{where} must be {dtype} of shape {item.shape} by {NAME}; "
                    f"{FOREIGN}"
                )
            return Chunk(item.start, item.shape, stored.source, stored.offset)
        source = ItemSource(
            self.files[item.file],
            item.begin,
            item.end,
            dtype,
            item.shape,
            where,
            self.heads,
        )
        return Chunk(item.start, item.shape, source)


class _Location(NamedTuple):
    """Source and position of the first byte in C order, and a checksum of all bytes.

    The checksum is 0 if the file does not have it.
    """

    source: Source
    start: int
    crc: int


class ItemSource:
    """Bytes of a tensor that ``torch.save`` wrote into a part of a file.

    The position of the bytes is found at the first read: a distributed checkpoint may
    have tens of thousands of items, each with a zip directory. Two items with the same
    bytes before the tensor, except for its checksum, have it at the same position:
    comparing them takes a tenth of the time of reading the directory.

    Parameters
    ----------
    file : FileSource
        File that contains the item.
    begin, end : int
        Part of the file that ``torch.save`` has written.
    dtype : numpy.dtype
        Expected dtype.
    shape : tuple of int
        Expected shape.
    where : str
        Name of the file and the tensor, for messages.
    heads : dict
        Bytes before the tensor, of items found so far; the items of a checkpoint share
        it.
    """

    def __init__(
        self,
        file: FileSource,
        begin: int,
        end: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        where: str,
        heads: Heads,
    ) -> None:
        self._file = file
        self._part = (begin, end)
        self._dtype = dtype
        self._shape = shape
        self._where = where
        self._heads = heads
        self._n_bytes = math.prod(shape) * dtype.itemsize
        self._location: _Location | None = None
        self._crcs: dict[tuple[int, int], int] = {}  # of bytes read, by offset and size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        if self._location is None:  # two threads may find it at the same time
            self._location = self._find()
        location = self._location
        location.source.read_into(buffer, location.start + offset)
        if location.crc:
            self._crcs[offset, len(buffer)] = crc32(buffer)

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the file was modified since it was opened, or damaged.

        The checksum is compared if all bytes were read.
        """
        self._file.check_unchanged()
        crcs = {0: 0}  # of the bytes before a position
        for (offset, size), crc in sorted(self._crcs.items()):
            if offset in crcs:
                crcs[offset + size] = combine(crcs[offset], crc, size)
        if self._location and self._n_bytes in crcs:
            self._check(crcs[self._n_bytes], self._location.crc)

    def _check(self, crc: int, stored: int) -> None:
        if crc != stored:
            raise ValueError(
                f"{self._where} does not match its checksum: the file is damaged; copy "
                "or download it again"
            )

    def _find(self) -> _Location:
        begin, end = self._part
        kind = (end - begin, self._dtype, self._shape)
        head = self._heads.get(kind)
        if head:
            stored = self._file.read(begin, len(head))
            if _comparable(stored) == head:
                return _Location(
                    self._file, begin + len(head), self._stored_crc(stored)
                )
        tensor, record, crc = self._read_tensor()
        start = record.offset + tensor.offset * self._dtype.itemsize
        if tensor.is_contiguous and record.size == self._n_bytes:
            head = self._file.read(begin, min(start - begin, LONGEST_HEAD + 1))
            if len(head) <= LONGEST_HEAD and head.startswith(LOCAL):
                self._heads[kind] = _comparable(head)
            return _Location(self._file, start, crc)
        if crc:  # of more bytes, or in another order, than those that are read
            self._check(checksum(record), crc)
        source: Source = self._file
        if not tensor.is_contiguous:
            itemsize = self._dtype.itemsize
            source = StridedSource(
                self._file, start, tensor.shape, tensor.strides, itemsize
            )
            start = 0
        return _Location(source, start, 0)

    def _read_tensor(self) -> tuple[StoredTensor, ChecksumRecord, int]:
        """Tensor in the item, its storage, and the checksum of that."""
        stored = read_file(self._file, *self._part)
        tensor = stored.content
        if not isinstance(tensor, StoredTensor):
            raise ValueError(f"{self._where} must be a tensor by .metadata; {FOREIGN}")
        stored_at(tensor, self._dtype.itemsize, stored, self._where)
        dtype = dtype_named(tensor.dtype, self._where)
        if (dtype, tensor.shape) != (self._dtype, self._shape):
            raise ValueError(
                f"{self._where} must be {self._dtype} of shape {self._shape} by "
                f".metadata, found {dtype} of shape {tensor.shape}; {FOREIGN}"
            )
        assert tensor.storage is not None
        record = stored.storages[tensor.storage.key]
        return tensor, record, record.crc if stored.has_checksums else 0

    def _stored_crc(self, head: bytes) -> int:
        """Checksum in the local header at the end of the head, or after the data."""
        header = head.rfind(LOCAL)
        copy = head[header + 14 : header + 18]
        if head[header + 6] & HAS_DESCRIPTOR:
            after = self._file.read(self._part[0] + len(head) + self._n_bytes, 8)
            copy = after[4:] if after.startswith(DESCRIPTOR) else after[:4]
        return int.from_bytes(copy, "little")


def _comparable(head: bytes) -> bytes:
    """Bytes before a tensor, without its checksum in the last local header."""
    header = head.rfind(LOCAL)
    return head[: header + 14] + bytes(4) + head[header + 18 :]
