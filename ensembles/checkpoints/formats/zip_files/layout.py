"""Zip files as ``torch.save`` arranges them: stored entries, with aligned data.

The arrangement is that of torch's writer to the byte, because torch may compute the
offsets of storages from it (``torch.utils.serialization.config``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ensembles.checkpoints.formats.zip_files.records import (
    CENTRAL,
    DESCRIPTOR,
    END,
    END_64,
    HAS_DESCRIPTOR,
    LARGEST_16,
    LARGEST_32,
    LOCAL,
    LOCAL_SIZE,
    LOCATOR_64,
    UTF8,
    ZIP64,
)

ALIGNMENT = 64


class Entry(NamedTuple):
    """An entry of a zip file, and where it is stored.

    Parameters
    ----------
    name : str
        Name of the entry.
    size : int
        Size of its data in bytes.
    header : int
        Offset of the local header in the file.
    start : int
        Offset of the data in the file, a multiple of `ALIGNMENT`.
    """

    name: str
    size: int
    header: int
    start: int

    @property
    def stop(self) -> int:
        """End of the data."""
        return self.start + self.size

    @property
    def end(self) -> int:
        """End of the entry, with its descriptor."""
        return self.stop + (len(descriptor(self, 0)) if self.size else 0)

    @property
    def flags(self) -> int:
        """General purpose flags; torch writes no descriptor for an empty entry."""
        return UTF8 | (HAS_DESCRIPTOR if self.size else 0)

    @property
    def zip64(self) -> bytes:
        """Extra field with the size and offset that do not fit into 32 bits."""
        numbers = [self.size] * 2 if self.size >= LARGEST_32 else []
        numbers += [self.header] if self.header >= LARGEST_32 else []
        extra = struct.pack(f"<{len(numbers)}Q", *numbers)
        return struct.pack("<2H", ZIP64, len(extra)) + extra if numbers else b""


def arrange(sizes: Mapping[str, int]) -> list[Entry]:
    """Place entries one after another.

    Parameters
    ----------
    sizes : mapping of str to int
        Size of each entry in bytes, by name, in the order of the file.

    Returns
    -------
    list of Entry
    """
    entries: list[Entry] = []
    header = 0
    for name, size in sizes.items():
        entry = Entry(name, size, header, 0)
        unaligned = header + LOCAL_SIZE + len(name.encode()) + len(entry.zip64) + 4
        entry = entry._replace(start=-(-unaligned // ALIGNMENT) * ALIGNMENT)
        entries.append(entry)
        header = entry.end
    return entries


def local_header(entry: Entry) -> bytes:
    """Bytes from the beginning of an entry to its data."""
    name, zip64 = entry.name.encode(), entry.zip64
    n_padding = entry.start - entry.header - LOCAL_SIZE - len(name) - len(zip64) - 4
    padding = b"FB" + struct.pack("<H", n_padding) + b"Z" * n_padding
    fixed = struct.pack(
        "<4s5H3I2H",
        LOCAL,
        *(0, entry.flags, 0, 0, 0),  # version, flags, method, time, date
        *(0, 0, 0),  # checksum and sizes: in the descriptor
        *(len(name), len(zip64) + len(padding)),
    )
    return fixed + name + zip64 + padding


def descriptor(entry: Entry, crc: int) -> bytes:
    """Checksum and sizes, which follow the data."""
    form = "<4sI2Q" if entry.zip64 else "<4s3I"
    return struct.pack(form, DESCRIPTOR, crc, entry.size, entry.size)


def central_directory(
    entries: Sequence[Entry], crcs: Iterable[int], comment: bytes = b""
) -> bytes:
    """Bytes after the last entry.

    Parameters
    ----------
    entries : sequence of Entry
        Entries in the order of the file.
    crcs : iterable of int
        CRC-32 of each.
    comment : bytes, default=b""
        Comment of the zip file, at most 65,535 bytes.

    Returns
    -------
    bytes
        Its length does not depend on the checksums.
    """
    start = entries[-1].end
    records = b"".join(map(_record, entries, crcs))
    return records + end_records(len(entries), start, len(records), comment)


def end_records(n_entries: int, start: int, size: int, comment: bytes) -> bytes:
    """Records after a directory, with and without zip64.

    Parameters
    ----------
    n_entries : int
        Number of entries.
    start : int
        Position of the directory in the file.
    size : int
        Size of the directory in bytes.
    comment : bytes
        Comment of the zip file, at most 65,535 bytes.

    Returns
    -------
    bytes
    """
    end_64 = struct.pack(
        "<4sQ2H2I4Q",
        *(END_64, 44, 0x31E, 45, 0, 0),  # versions as torch writes them; disks
        *(n_entries, n_entries, size, start),
    )
    locator = struct.pack("<4sIQI", LOCATOR_64, 0, start + size, 1)
    counts = [min(n_entries, LARGEST_16)] * 2
    sizes = (min(size, LARGEST_32), min(start, LARGEST_32))
    end = struct.pack("<4s4H2IH", END, 0, 0, *counts, *sizes, len(comment))
    return end_64 + locator + end + comment


def _record(entry: Entry, crc: int) -> bytes:
    """Record of an entry in the central directory."""
    name, zip64 = entry.name.encode(), entry.zip64
    size = min(entry.size, LARGEST_32)
    fixed = struct.pack(
        "<4s6H3I5H2I",
        CENTRAL,
        *(0, 0, entry.flags, 0, 0, 0),  # versions, flags, method, time, date
        *(crc, size, size),
        *(len(name), len(zip64), 0, 0, 0),
        *(0, min(entry.header, LARGEST_32)),
    )
    return fixed + name + zip64
