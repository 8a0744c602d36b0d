"""Entries of zip files, with the positions of their headers and data.

The module zipfile of Python takes about a kilobyte of memory an entry, and does not say
where the data begin. Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.5.3.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ensembles.checkpoints.formats.checkpoint import FileSource

LOCAL = b"PK\x03\x04"
CENTRAL = b"PK\x01\x02"
END = b"PK\x05\x06"
END_64 = b"PK\x06\x06"
LOCATOR_64 = b"PK\x06\x07"
LONGEST_COMMENT = 0xFFFF
UNKNOWN = 0xFFFFFFFF  # in a field whose value is in the zip64 extra field
MOST_ENTRIES = 1_000_000


class Entry(NamedTuple):
    """A stored entry of a zip file.

    Parameters
    ----------
    name : str
        Name with folders.
    start : int
        Position of its data in the file.
    size : int
        Size of its data in bytes.
    crc : int
        CRC-32 of its data.
    header : int
        Position of its local header in the file.
    central : int
        Position of its header in the central directory.
    """

    name: str
    start: int
    size: int
    crc: int
    header: int
    central: int


def read_entries(
    file: FileSource, begin: int = 0, end: int | None = None
) -> list[Entry]:
    """Entries of a zip file, in the order of their data.

    Parameters
    ----------
    file : FileSource
        File that contains the zip file.
    begin, end : int, default=0 and None
        Position of the zip file in the file; None ends it with the file.

    Returns
    -------
    list of Entry

    Raises
    ------
    ValueError
        If the central directory is damaged, entries are compressed, encrypted or
        overlap, or two have the same name.
    """
    end = file.size if end is None else end
    n_entries, start, stop = _directory(file, begin, end)
    data = file.read(start, stop - start)
    entries: list[Entry] = []
    position = 0
    for _ in range(n_entries):
        entry, position = _entry(file, data, position, begin, start)
        entries.append(entry)
    entries.sort(key=lambda entry: entry.header)
    if len({entry.name for entry in entries}) < len(entries):
        raise _damaged(file, "two entries have the same name")
    stops = [entry.header for entry in entries[1:]] + [start]
    for entry, next_header in zip(entries, stops, strict=True):
        if entry.start + entry.size > next_header:
            raise _damaged(file, f"entry {entry.name!r} overlaps with what follows it")
    return entries


def _damaged(file: FileSource, reason: str) -> ValueError:
    return ValueError(
        f"{file.path} is not a complete zip file: {reason}; copy or download the file "
        "again"
    )


def _directory(file: FileSource, begin: int, end: int) -> tuple[int, int, int]:
    """Number of entries, and the begin and end of the central directory."""
    tail_start = max(begin, end - LONGEST_COMMENT - 22)
    tail = file.read(tail_start, end - tail_start)
    found = tail.rfind(END)
    if found < 0 or len(tail) - found < 22:
        raise _damaged(file, "its central directory is missing")
    disk, first_disk, here, n_entries, size, offset = struct.unpack_from(
        "<HHHHII", tail, found + 4
    )
    position = tail_start + found
    if tail[max(0, found - 20) : found][:4] == LOCATOR_64:
        (record,) = struct.unpack_from("<Q", tail, found - 20 + 8)
        position = begin + record
        header = file.read(position, 56)
        if header[:4] != END_64:
            raise _damaged(file, "its zip64 directory is missing")
        disk, first_disk, here, n_entries, size, offset = struct.unpack_from(
            "<IIQQQQ", header, 16
        )
    start = begin + offset
    if disk or first_disk or here != n_entries:
        raise _damaged(file, "it is a part of a zip file in several files")
    if not begin <= start <= start + size <= position <= end:
        raise _damaged(file, "its central directory is beyond its end")
    if n_entries > min(MOST_ENTRIES, size // 46):
        raise _damaged(file, f"it claims to have {n_entries} entries")
    return n_entries, start, start + size


def _entry(
    file: FileSource, data: bytes, position: int, begin: int, directory: int
) -> tuple[Entry, int]:
    """Read an entry of the central directory, and its local header."""
    if data[position : position + 4] != CENTRAL or len(data) < position + 46:
        raise _damaged(file, "its central directory is damaged")
    flags, method = struct.unpack_from("<HH", data, position + 8)
    crc, packed, size, n_name, n_extra, n_comment = struct.unpack_from(
        "<IIIHHH", data, position + 16
    )
    (header,) = struct.unpack_from("<I", data, position + 42)
    text = data[position + 46 : position + 46 + n_name]
    name = text.decode("utf-8" if flags & 0x800 else "cp437", "replace")
    extra = data[position + 46 + n_name : position + 46 + n_name + n_extra]
    sizes = _zip64(extra)
    if UNKNOWN in (size, packed, header):
        values = iter(sizes)
        size, packed, header = (
            next(values, -1) if value == UNKNOWN else value
            for value in (size, packed, header)
        )
    if method or flags & 1 or size != packed:
        raise ValueError(
            f"{file.path}: entry {name!r} is compressed or encrypted, which torch.save "
            "never does; save it again with torch.save"
        )
    if not begin <= begin + header <= begin + header + 30 <= directory:
        raise _damaged(file, f"entry {name!r} is beyond its end")
    local = file.read(begin + header, 30)
    if local[:4] != LOCAL:
        raise _damaged(file, f"entry {name!r} has no header")
    start = begin + header + 30 + sum(struct.unpack_from("<HH", local, 26))
    if size < 0 or start + size > directory:
        raise _damaged(file, f"entry {name!r} is beyond its end")
    entry = Entry(name, start, size, crc, begin + header, directory + position)
    return entry, position + 46 + n_name + n_extra + n_comment


def _zip64(extra: bytes) -> list[int]:
    """Sizes and offset in the zip64 extra field; empty without the field."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + size]
            return [
                value for (value,) in struct.iter_unpack("<Q", field[: len(field) & ~7])
            ]
        position += 4 + size
    return []
