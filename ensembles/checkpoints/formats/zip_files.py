"""Entries of zip files: where their data are, and conversions of these, in bounds."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ensembles.atomic_io import explain_disk_full, preallocate, pwrite_all
from ensembles.checkpoints.formats.checkpoint import FileSource

STORED, DEFLATED = 0, 8  # compression methods
LOCAL = b"PK\x03\x04"  # beginning of a local header
LOCAL_HEADER = 30  # bytes of a local header before the name of the entry
ENCRYPTED = 1  # bit of the flags
END, END64, LOCATOR64 = 22, 56, 20  # bytes of the end records, without a comment
END_SEARCHED = END + END64 + LOCATOR64 + 65_535
LARGEST_DIRECTORY = 16 << 20  # bytes; the shortest entries need 10 times as much memory
LARGEST_RATIO = 1032  # of sizes, by deflate
# Files that expand to more than both are refused as zip bombs.
LARGEST_EXPANDED, LARGEST_EXPANSION = 1 << 30, 100  # bytes, times the size of the file
CHUNK = 1 << 20


class Archive(NamedTuple):
    """Central directory of a zip file.

    Parameters
    ----------
    entries : list of zipfile.ZipInfo
        Entries in the order of the directory.
    start : int
        Offset of the directory in the file.
    comment : bytes
        Comment of the archive.
    """

    entries: list[zipfile.ZipInfo]
    start: int
    comment: bytes


class ZipEntry(NamedTuple):
    """An entry of a zip file.

    Parameters
    ----------
    name : str
        Name of the entry, with slashes between folders.
    offset : int
        Offset in the file of its data.
    stored_size : int
        Size of the data in the file, in bytes.
    size : int
        Size after decompression, in bytes.
    crc : int
        CRC-32 after decompression.
    method : int
        Compression method, as in `zipfile`: 0 without compression, 8 for deflate.
    """

    name: str
    offset: int
    stored_size: int
    size: int
    crc: int
    method: int


def read_archive(path: Path) -> Archive:
    """Central directory of a zip file.

    Parameters
    ----------
    path : Path
        Path of the zip file.

    Returns
    -------
    Archive

    Raises
    ------
    ValueError
        If the file is not a complete zip file, or its directory has more than 16 MiB.
    """
    file = FileSource(path)
    size = _directory_size(file)
    if size > LARGEST_DIRECTORY:
        raise ValueError(
            f"{path} is a zip file with a directory of {size} bytes; at most "
            f"{LARGEST_DIRECTORY} are read"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return Archive(archive.infolist(), archive.start_dir, archive.comment)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise ValueError(f"{path} is not a complete zip file: {error}") from None


def zip_entries(file: FileSource, archive: Archive) -> list[ZipEntry]:
    """Entries of a zip file, whose data neither overlap nor leave the file.

    Parameters
    ----------
    file : FileSource
        The zip file.
    archive : Archive
        Its directory.

    Returns
    -------
    list of ZipEntry
        Entries in the order of the directory.

    Raises
    ------
    ValueError
        If an entry is encrypted, its name occurs twice, or its data overlap others or
        leave the file.
    """
    entries: dict[str, ZipEntry] = {}
    spans = []
    for info in archive.entries:
        where = f"{file.path}: entry {info.filename!r}"
        if info.flag_bits & ENCRYPTED:
            raise ValueError(f"{where} is encrypted; save it without a password")
        if info.filename in entries:
            raise ValueError(f"{where} occurs twice; save the file again")
        start = min(max(info.header_offset, 0), archive.start - LOCAL_HEADER)
        head = file.read(max(start, 0), LOCAL_HEADER)
        n_name, n_extra = struct.unpack("<HH", head[26:30])
        offset = info.header_offset + LOCAL_HEADER + n_name + n_extra
        end = offset + info.compress_size
        if start != info.header_offset or head[:4] != LOCAL or end > archive.start:
            raise ValueError(
                f"{where} must be at byte {info.header_offset}, with "
                f"{info.compress_size} bytes of data before the directory; copy or "
                "download the file again"
            )
        spans.append((info.header_offset, end, info.filename))
        entries[info.filename] = ZipEntry(
            info.filename,
            offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type,
        )
    spans.sort()
    for (_, end, name), (start, _, other) in pairwise(spans):
        if end > start:
            raise ValueError(
                f"{file.path}: entries {name!r} and {other!r} overlap; save the file "
                "again"
            )
    return list(entries.values())


def pread_all(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer with the bytes of a file from an offset on.

    Parameters
    ----------
    fd : int
        File descriptor, open for reading.
    buffer : memoryview of bytes
        Buffer to fill.
    offset : int
        Position in the file of the first byte.

    Raises
    ------
    OSError
        If the file ends earlier.
    """
    while len(buffer):
        n_read = os.preadv(fd, [buffer], offset)
        if n_read == 0:
            raise OSError(f"a file ends at byte {offset}, {len(buffer)} bytes early")
        buffer, offset = buffer[n_read:], offset + n_read


def _directory_size(file: FileSource) -> int:
    """Size of the directory by its end records, as `zipfile` would read it."""
    start = max(0, file.size - END_SEARCHED)
    tail = file.read(start, file.size - start)
    sizes = [0]
    for at in {len(tail) - END, tail.rfind(b"PK\x05\x06")}:
        if at < 0 or tail[at : at + 4] != b"PK\x05\x06":
            continue
        sizes.append(int.from_bytes(tail[at + 12 : at + 16], "little"))
        end64 = tail[max(0, at - END64 - LOCATOR64) : max(0, at)]
        if len(end64) == END64 + LOCATOR64 and end64[END64:].startswith(b"PK\x06\x07"):
            sizes[-1] = int.from_bytes(end64[40:48], "little")
    return max(sizes)


class ScratchFile:
    """Temporary file for converted entries of a zip file, removed with the object.

    Parameters
    ----------
    file : FileSource
        The zip file.

    Attributes
    ----------
    size : int
        Size of the temporary file in bytes, which is created when it is first used.
    lock : threading.Lock
        Lock that a conversion holds.
    """

    def __init__(self, file: FileSource) -> None:
        self.file = file
        self.size = 0
        self.lock = threading.Lock()
        self._opened: IO[bytes] | None = None

    def __del__(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def reserve(self, size: int) -> int:
        """Offset of a new region of ``size`` bytes."""
        start = self.size + -self.size % 64
        self.size = start + size
        limit = max(LARGEST_EXPANDED, LARGEST_EXPANSION * self.file.size)
        if self.size > limit:
            raise ValueError(
                f"{self.file.path} has {self.file.size} bytes and expands to more than "
                f"{limit}, as a zip bomb does; save it again without compression"
            )
        return start

    def opened(self) -> IO[bytes]:
        """Return the open file, with all its space allocated."""
        if self._opened is None:
            place = Path(tempfile.gettempdir())
            copy = f"{place}: a temporary copy of {self.file.path}"
            with explain_disk_full(copy, "set TMPDIR to another folder"):
                # It has no name, so that it is removed if the process is killed.
                self._opened = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                preallocate(self._opened.fileno(), self.size)
        return self._opened


class Conversion:
    """Array in an entry, decompressed, little-endian and in C order when it is read.

    Parameters
    ----------
    scratch : ScratchFile
        Temporary file of the zip file.
    entry : ZipEntry
        Entry with the array.
    start : int
        Size of the header before the array, in bytes.
    dtype : dtype
        Dtype of the array as it is stored, of any byte order.
    shape : tuple of int
        Shape of the array.
    by_column : bool
        Whether it is in Fortran order.

    Raises
    ------
    ValueError
        If the file expands too far.
    """

    def __init__(
        self,
        scratch: ScratchFile,
        entry: ZipEntry,
        start: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        *,
        by_column: bool,
    ) -> None:
        if entry.size > LARGEST_RATIO * entry.stored_size:
            raise ValueError(
                f"{scratch.file.path}: entry {entry.name!r} cannot have {entry.size} "
                f"bytes in {entry.stored_size}; download the file again"
            )
        self._scratch, self._entry = scratch, entry
        self._dtype, self._shape, self._by_column = dtype, shape, by_column
        self._copy = scratch.reserve(entry.size)
        self._start = self._copy + start
        self._result = self._start
        if by_column or dtype != dtype.newbyteorder("="):
            self._result = scratch.reserve(entry.size - start)
        self._is_converted = False

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        with self._scratch.lock:
            if not self._is_converted:
                self._convert()
                self._is_converted = True
        fd = self._scratch.opened().fileno()
        pread_all(fd, buffer, self._result + offset)

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the zip file was modified since it was opened."""
        self._scratch.file.check_unchanged()

    def _convert(self) -> None:
        opened = self._scratch.opened()
        crc = size = 0
        for data in _expanded(self._scratch.file, self._entry):
            if size + len(data) > self._entry.size:
                raise self._damaged()
            pwrite_all(opened.fileno(), memoryview(data), self._copy + size)
            crc, size = zlib.crc32(data, crc), size + len(data)
        if (crc, size) != (self._entry.crc, self._entry.size):
            raise self._damaged()
        if self._result == self._start or 0 in self._shape:
            return
        stored_shape = self._shape[::-1] if self._by_column else self._shape
        stored = np.memmap(opened, self._dtype, "r", self._start, stored_shape)
        native = self._dtype.newbyteorder("=")
        result = np.memmap(opened, native, "r+", self._result, self._shape)
        result[...] = stored.T if self._by_column else stored

    def _damaged(self) -> ValueError:
        return ValueError(
            f"{self._scratch.file.path} is damaged: entry {self._entry.name!r} does "
            "not match its checksum; copy or download the file again"
        )


def _expanded(file: FileSource, entry: ZipEntry) -> Iterator[bytes]:
    """Data of an entry, decompressed, in parts of at most 1 MiB."""
    inflater = zlib.decompressobj(-15) if entry.method == DEFLATED else None
    for start in range(0, entry.stored_size, CHUNK):
        data = file.read(entry.offset + start, min(CHUNK, entry.stored_size - start))
        if inflater is None:
            yield data
            continue
        try:
            while data:
                yield inflater.decompress(data, CHUNK)
                data = inflater.unconsumed_tail
        except zlib.error as error:
            raise ValueError(
                f"{file.path} is damaged: entry {entry.name!r}: {error}; copy or "
                "download the file again"
            ) from None
    if inflater is not None:
        yield inflater.flush()
