"""Entries of zip files, with the positions of their headers and data.

The module zipfile of Python takes about a kilobyte of memory an entry, and does not say
where the data begin.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.formats.zip_files.records import (
    CENTRAL,
    CENTRAL_SIZE,
    ENCRYPTED,
    END,
    END_64,
    END_64_SIZE,
    END_SIZE,
    LARGEST_16,
    LARGEST_32,
    LOCAL,
    LOCAL_SIZE,
    LOCATOR_64,
    LOCATOR_64_SIZE,
    UTF8,
    ZIP64,
)

MOST_ENTRIES = 1_000_000
LARGEST_DIRECTORY = 128 << 20  # bytes; a million entries of torch.save take 70 MB
PART = 1 << 20  # bytes of the directory that are read at once


class Entry(NamedTuple):
    """An entry of a zip file.

    Parameters
    ----------
    name : str
        Name with folders.
    start : int
        Position of its data in the file.
    stored_size : int
        Size of its data in the file, in bytes.
    size : int
        Size after decompression, in bytes.
    crc : int
        CRC-32 after decompression.
    method : int
        Compression method, `STORED` or another one.
    header : int
        Position of its local header in the file.
    central : int
        Position of its record in the directory.
    """

    name: str
    start: int
    stored_size: int
    size: int
    crc: int
    method: int
    header: int
    central: int


@dataclass(frozen=True)
class Archive:
    """Entries of a zip file, in the order of its directory.

    A million entries take 140 MB; as many objects would take three times that.

    Parameters
    ----------
    names : list of str
        Name of each entry.
    numbers : array of int
        The other fields of `Entry`, seven for each entry.
    comment : bytes
        Comment of the zip file.
    end : int
        Position in the file of the end record, which the comment follows.
    """

    names: list[str]
    numbers: array[int]
    comment: bytes
    end: int

    def __iter__(self) -> Iterator[Entry]:
        for index, name in enumerate(self.names):
            yield self._entry(index, name)

    def get(self, name: str) -> Entry | None:
        """Entry with a name; None if the zip file does not have it."""
        return self._entry(self.names.index(name), name) if name in self.names else None

    def _entry(self, index: int, name: str) -> Entry:
        n_fields = len(Entry._fields) - 1
        return Entry(name, *self.numbers[n_fields * index : n_fields * (index + 1)])


class _Directory(NamedTuple):
    """Position of the directory of a zip file, and what the end record says."""

    n_entries: int
    start: int
    stop: int
    comment: bytes
    end: int


class _Record(NamedTuple):
    """Record of an entry in the directory; ``header`` counts from the zip file."""

    name: str
    flags: int
    method: int
    crc: int
    stored_size: int
    size: int
    header: int
    central: int


def read_archive(file: FileSource, begin: int = 0, end: int | None = None) -> Archive:
    """Entries of a zip file, whose data neither overlap nor leave the file.

    Parameters
    ----------
    file : FileSource
        File that contains the zip file.
    begin, end : int, default=0 and None
        Position of the zip file in the file; None ends it with the file.

    Returns
    -------
    Archive

    Raises
    ------
    ValueError
        If the directory is damaged or too large, an entry is encrypted, its name occurs
        twice, or its data overlap others or leave the file.
    """
    directory = _directory(file, begin, file.size if end is None else end)
    archive = Archive([], array("Q"), directory.comment, directory.end)
    for record in _records(file, directory):
        name, *numbers = _entry(file, record, begin, directory.start)
        archive.names.append(name)
        archive.numbers.extend(numbers)
    for before, after in pairwise(sorted(archive.names)):
        if before == after:
            raise ValueError(
                f"{file.path}: entry {after!r} occurs twice; save the file again"
            )
    _check_overlaps(file, archive)
    return archive


def _check_overlaps(file: FileSource, archive: Archive) -> None:
    """Check that each entry ends before the next one begins."""
    fields = np.array(archive.numbers, np.uint64).reshape(len(archive.names), -1)
    start, stored_size, header = fields[:, 0], fields[:, 1], fields[:, 5]
    order = np.argsort(header, kind="stable")
    overlapping = (start + stored_size)[order[:-1]] > header[order[1:]]
    if overlapping.any():
        first = int(overlapping.argmax())
        before, after = (archive.names[index] for index in order[first : first + 2])
        raise ValueError(
            f"{file.path}: entries {before!r} and {after!r} overlap; save the file "
            "again"
        )


def entry_names(file: FileSource) -> list[str]:
    """Names of the entries of a zip file, from its directory alone.

    Parameters
    ----------
    file : FileSource
        The zip file.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If the directory is damaged or too large.
    """
    return [record.name for record in _records(file, _directory(file, 0, file.size))]


def read_comment(file: FileSource) -> bytes | None:
    """Comment of a zip file.

    Parameters
    ----------
    file : FileSource
        The zip file.

    Returns
    -------
    bytes or None
        None if other bytes follow it.

    Raises
    ------
    ValueError
        If the end record is damaged.
    """
    directory = _directory(file, 0, file.size)
    stop = directory.end + END_SIZE + len(directory.comment)
    return directory.comment if stop == file.size else None


def _damaged(file: FileSource, reason: str) -> ValueError:
    return ValueError(
        f"{file.path} is not a complete zip file: {reason}; copy or download the file "
        "again"
    )


def _directory(file: FileSource, begin: int, end: int) -> _Directory:
    tail_start = max(begin, end - LARGEST_16 - END_SIZE)
    tail = file.read(tail_start, end - tail_start)
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < END_SIZE:
        raise _damaged(file, "its directory is missing")
    disk, first_disk, here, n_entries, size, offset, n_comment = struct.unpack_from(
        "<4H2IH", tail, at + 4
    )
    limit = tail_start + at
    locator = tail[max(0, at - LOCATOR_64_SIZE) : at]
    if locator.startswith(LOCATOR_64):
        limit = begin + struct.unpack_from("<Q", locator, 8)[0]
        record = file.read(limit, END_64_SIZE)
        if not record.startswith(END_64):
            raise _damaged(file, "its zip64 directory is missing")
        disk, first_disk, here, n_entries, size, offset = struct.unpack_from(
            "<2I4Q", record, 16
        )
    if size > LARGEST_DIRECTORY or n_entries > MOST_ENTRIES:
        raise ValueError(
            f"{file.path} is a zip file with a directory of {size} bytes and "
            f"{n_entries} entries; at most {LARGEST_DIRECTORY} bytes and "
            f"{MOST_ENTRIES} entries are read; save its contents in several files"
        )
    start = begin + offset
    if disk or first_disk or here != n_entries:
        raise _damaged(file, "it is one of several parts of a zip file")
    if not start + size <= limit <= end or n_entries > size // CENTRAL_SIZE:
        raise _damaged(file, "its directory is beyond its end")
    comment = tail[at + END_SIZE : at + END_SIZE + n_comment]
    return _Directory(n_entries, start, start + size, comment, tail_start + at)


class _Part:
    """Bytes of a directory, read in parts."""

    def __init__(self, file: FileSource, start: int, stop: int) -> None:
        self.position = start
        self._file = file
        self._stop = stop
        self._bytes = b""
        self._start = start  # position of the bytes

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if self.position + size > self._stop:
            raise _damaged(self._file, "its directory is damaged")
        begin = self.position - self._start
        if begin + size > len(self._bytes):
            n_bytes = min(max(PART, size), self._stop - self.position)
            self._bytes = self._file.read(self.position, n_bytes)
            self._start, begin = self.position, 0
        self.position += size
        return self._bytes[begin : begin + size]


def _records(file: FileSource, directory: _Directory) -> Iterator[_Record]:
    part = _Part(file, directory.start, directory.stop)
    for _ in range(directory.n_entries):
        central = part.position
        fixed = part.take(CENTRAL_SIZE)
        if not fixed.startswith(CENTRAL):
            raise _damaged(file, "its directory is damaged")
        flags, method, crc, stored_size, size, n_name, n_extra, n_comment = (
            struct.unpack_from("<2H4x3I3H", fixed, 8)
        )
        (header,) = struct.unpack_from("<I", fixed, 42)
        # Names that differ stay different, also if they are not in this encoding.
        name = part.take(n_name).decode(
            "utf-8" if flags & UTF8 else "cp437", "backslashreplace"
        )
        extra = part.take(n_extra)
        numbers = (size, stored_size, header)
        if LARGEST_32 in numbers:
            values = iter(_zip64(extra))
            size, stored_size, header = (
                next(values, -1) if number == LARGEST_32 else number
                for number in numbers
            )
        part.take(n_comment)
        yield _Record(name, flags, method, crc, stored_size, size, header, central)
    if part.position != directory.stop:
        n_bytes = directory.stop - part.position
        raise _damaged(file, f"{n_bytes} bytes follow its last entry")


def _entry(file: FileSource, record: _Record, begin: int, directory: int) -> Entry:
    """Entry of a record, after its local header."""
    where = f"{file.path}: entry {record.name!r}"
    if record.flags & ENCRYPTED:
        raise ValueError(f"{where} is encrypted; save it without a password")
    header, start = begin + record.header, directory + 1
    if begin <= header <= directory - LOCAL_SIZE:
        local = file.read(header, LOCAL_SIZE)
        if local.startswith(LOCAL):
            start = header + LOCAL_SIZE + sum(struct.unpack_from("<2H", local, 26))
    is_within = 0 <= record.stored_size <= directory - start
    if record.size < 0 or not is_within:
        raise ValueError(
            f"{where} must be at byte {record.header}, with {record.stored_size} bytes "
            "of data before the directory; copy or download the file again"
        )
    return Entry(
        record.name,
        start,
        record.stored_size,
        record.size,
        record.crc,
        record.method,
        header,
        record.central,
    )


def _zip64(extra: bytes) -> list[int]:
    """Sizes and offset in the zip64 extra field; empty without the field."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        if kind == ZIP64:
            field = extra[position + 4 : position + 4 + size]
            return [
                value for (value,) in struct.iter_unpack("<Q", field[: len(field) & ~7])
            ]
        position += 4 + size
    return []
