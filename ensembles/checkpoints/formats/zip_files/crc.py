"""CRC-32 checksums of zip entries, and of bytes that were written in any order."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ensembles.atomic_io import pwrite_all
from ensembles.checkpoints.formats.checkpoint import ChecksumRecord
from ensembles.parallel import chunks

try:  # 15 times as fast as zlib, whose checksum takes longer than the average itself
    from zlib_ng.zlib_ng import crc32  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from zlib import crc32

__all__ = [
    "ChecksummedFile",
    "ChecksummedSink",
    "checksum",
    "combine",
    "crc32",
    "damaged",
]

POLYNOMIAL = 0xEDB88320  # of CRC-32; the highest bit is the coefficient of x**0
ONE, BYTE = 1 << 31, 1 << 23  # x**0 and x**8
CHUNK = 1 << 20


def checksum(record: ChecksumRecord) -> int:
    """CRC-32 of the bytes of a record, which are read.

    Parameters
    ----------
    record : ChecksumRecord
        Byte range of a file.

    Returns
    -------
    int
    """
    crc, buffer = 0, memoryview(bytearray(min(CHUNK, record.size)))
    for start, stop in chunks(record.size, CHUNK):
        part = buffer[: stop - start]
        record.file.read_into(part, record.offset + start)
        crc = crc32(part, crc)
    return crc


def damaged(record: ChecksumRecord) -> ValueError:
    """Error for bytes that do not match their stored checksum.

    Parameters
    ----------
    record : ChecksumRecord
        Byte range with another checksum.

    Returns
    -------
    ValueError
    """
    return ValueError(
        f"{record.file.path} is damaged: entry {record.name!r} does not match its "
        "checksum; copy or download the file again"
    )


def combine(first: int, second: int, n_bytes: int) -> int:
    """CRC-32 of two consecutive byte strings from the CRC-32 of each.

    Parameters
    ----------
    first : int
        Checksum of the first string.
    second : int
        Checksum of the second string.
    n_bytes : int
        Length of the second string in bytes.

    Returns
    -------
    int

    Examples
    --------
    >>> combine(crc32(b"ensem"), crc32(b"bles"), 4) == crc32(b"ensembles")
    True
    """
    return second ^ (_multiply(_shift(n_bytes), first) if first else 0)


@lru_cache(4096)
def _shift(n_bytes: int) -> int:
    """Polynomial x**(8 n_bytes), which appends zero bytes to a checksum."""
    power, square = ONE, BYTE
    while n_bytes:
        if n_bytes & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        n_bytes >>= 1
    return power


def _multiply(a: int, b: int) -> int:
    """Product of two polynomials modulo that of CRC-32."""
    product = 0
    while a:
        if a & ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product


class ChecksummedFile:
    """A file that threads write to, with the CRC-32 of each block that they wrote.

    Parameters
    ----------
    fd : int
        File descriptor, open for reading and writing.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._blocks: list[tuple[int, int, int]] = []  # offset, size, checksum

    def write(self, buffer: memoryview, offset: int) -> None:
        """Write bytes at an offset of the file, from any thread."""
        pwrite_all(self.fd, buffer, offset)
        self._blocks.append((offset, len(buffer), crc32(buffer)))

    def checksums(self, ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
        """CRC-32 of each range, after the last write.

        Parameters
        ----------
        ranges : iterable of (int, int)
            First byte of each range, and the end of it. The range is read again unless
            it was written exactly once.

        Yields
        ------
        int
        """
        self._blocks.sort()
        for start, stop in ranges:
            crc = self._combined(start, stop)
            yield self._read(start, stop) if crc is None else crc

    def _combined(self, start: int, stop: int) -> int | None:
        """CRC-32 of the blocks in a range; None if they do not cover it exactly."""
        crc, position = 0, start
        first = bisect_left(self._blocks, (start, 0, 0))
        for index in range(first, len(self._blocks)):
            offset, size, block_crc = self._blocks[index]
            if offset >= stop:
                break
            if offset != position or offset + size > stop:
                return None
            crc, position = combine(crc, block_crc, size), position + size
        return crc if position == stop else None

    def _read(self, start: int, stop: int) -> int:
        crc = 0
        for begin, end in chunks(stop - start, CHUNK):
            crc = crc32(os.pread(self.fd, end - begin, start + begin), crc)
        return crc


class ChecksummedSink:
    """Writes the bytes of a tensor to a `ChecksummedFile`, from byte ``start`` on."""

    def __init__(self, file: ChecksummedFile, start: int) -> None:
        self._file = file
        self._start = start

    def write(self, buffer: memoryview, offset: int) -> None:
        self._file.write(buffer, self._start + offset)
