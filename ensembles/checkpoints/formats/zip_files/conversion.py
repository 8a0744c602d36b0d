"""Arrays in entries of zip files that are decompressed or rearranged to be read."""

from __future__ import annotations

import os
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ensembles.atomic_io import explain_disk_full, preallocate, pwrite_all
from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.formats.zip_files.crc import crc32
from ensembles.checkpoints.formats.zip_files.reading import Entry
from ensembles.checkpoints.formats.zip_files.records import DEFLATED

LARGEST_RATIO = 1032  # of sizes, by deflate
# Files that expand to more than both are refused as zip bombs.
LARGEST_EXPANDED, LARGEST_EXPANSION = 1 << 30, 100  # bytes, times the size of the file
CHUNK = 1 << 20


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
    entry : Entry
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
        entry: Entry,
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
            crc, size = crc32(data, crc), size + len(data)
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


def _expanded(file: FileSource, entry: Entry) -> Iterator[bytes]:
    """Data of an entry, decompressed, in parts of at most 1 MiB."""
    inflater = zlib.decompressobj(-15) if entry.method == DEFLATED else None
    for start in range(0, entry.stored_size, CHUNK):
        data = file.read(entry.start + start, min(CHUNK, entry.stored_size - start))
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
