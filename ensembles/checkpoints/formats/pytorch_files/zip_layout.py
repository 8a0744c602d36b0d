"""Zip files as ``torch.save`` arranges them: stored entries, with aligned data.

The arrangement is that of torch's writer to the byte, because torch may compute the
offsets of storages from it (``torch.utils.serialization.config``).
Source: PKWARE, ".ZIP File Format Specification", version 6.3.10.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

ALIGNMENT = 64
LARGEST = 0xFFFFFFFF  # a size or offset from here on needs the zip64 form
UTF8, DESCRIPTOR = 0x800, 0x8  # flags; a descriptor after the data has the checksum


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
        return UTF8 | (DESCRIPTOR if self.size else 0)

    @property
    def zip64(self) -> bytes:
        """Extra field with the size and offset that do not fit into 32 bits."""
        numbers = [self.size] * 2 if self.size >= LARGEST else []
        numbers += [self.header] if self.header >= LARGEST else []
        extra = struct.pack(f"<{len(numbers)}Q", *numbers)
        return struct.pack("<2H", 1, len(extra)) + extra if numbers else b""


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
        unaligned = header + 30 + len(name.encode()) + len(entry.zip64) + 4
        entry = entry._replace(start=-(-unaligned // ALIGNMENT) * ALIGNMENT)
        entries.append(entry)
        header = entry.end
    return entries


def local_header(entry: Entry) -> bytes:
    """Bytes from the beginning of an entry to its data."""
    name, zip64 = entry.name.encode(), entry.zip64
    n_padding = entry.start - entry.header - 30 - len(name) - len(zip64) - 4
    padding = b"FB" + struct.pack("<H", n_padding) + b"Z" * n_padding
    fixed = struct.pack(
        "<4s5H3I2H",
        b"PK\3\4",
        *(0, entry.flags, 0, 0, 0),  # version, flags, method, time, date
        *(0, 0, 0),  # checksum and sizes: in the descriptor
        *(len(name), len(zip64) + len(padding)),
    )
    return fixed + name + zip64 + padding


def descriptor(entry: Entry, crc: int) -> bytes:
    """Checksum and sizes, which follow the data."""
    form = "<4sI2Q" if entry.zip64 else "<4s3I"
    return struct.pack(form, b"PK\7\10", crc, entry.size, entry.size)


def central_directory(entries: Sequence[Entry], crcs: Iterable[int]) -> bytes:
    """Bytes after the last entry.

    Parameters
    ----------
    entries : sequence of Entry
        Entries in the order of the file.
    crcs : iterable of int
        CRC-32 of each.

    Returns
    -------
    bytes
        Its length does not depend on the checksums.
    """
    start = entries[-1].end
    records = b"".join(map(_record, entries, crcs))
    n_entries, end = len(entries), start + len(records)
    zip64_end = struct.pack(
        "<4sQ2H2I4Q",
        *(b"PK\6\6", 44, 0x31E, 45, 0, 0),  # versions as torch writes them; disks
        *(n_entries, n_entries, len(records), start),
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    counts = [min(n_entries, 0xFFFF)] * 2
    sizes = (min(len(records), LARGEST), min(start, LARGEST))
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *counts, *sizes, 0)
    return records + zip64_end + locator + last


def _record(entry: Entry, crc: int) -> bytes:
    """Record of an entry in the central directory."""
    name, zip64 = entry.name.encode(), entry.zip64
    size = min(entry.size, LARGEST)
    fixed = struct.pack(
        "<4s6H3I5H2I",
        b"PK\1\2",
        *(0, 0, entry.flags, 0, 0, 0),  # versions, flags, method, time, date
        *(crc, size, size),
        *(len(name), len(zip64), 0, 0, 0),
        *(0, min(entry.header, LARGEST)),
    )
    return fixed + name + zip64
