"""NumPy archives, as `numpy.savez` writes them: a zip file with an array per entry.

The provenance of an average is in the comment of the archive, which NumPy ignores.
Source: the documentation of `numpy.lib.format`.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ensembles.atomic_io import preallocate, pwrite_all
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    FileSource,
    Tensor,
)
from ensembles.checkpoints.formats.output import OutputFile, Sink
from ensembles.checkpoints.formats.table import FORMATS, FileHead
from ensembles.checkpoints.formats.zip_files.comments import encode_comment, metadata_in
from ensembles.checkpoints.formats.zip_files.conversion import Conversion, ScratchFile
from ensembles.checkpoints.formats.zip_files.crc import (
    ChecksummedFile,
    ChecksummedSink,
    combine,
    crc32,
)
from ensembles.checkpoints.formats.zip_files.layout import ALIGNMENT, end_records
from ensembles.checkpoints.formats.zip_files.reading import Entry, read_archive
from ensembles.checkpoints.formats.zip_files.records import (
    CENTRAL,
    DEFLATED,
    LARGEST_16,
    LARGEST_32,
    LOCAL,
    LOCAL_SIZE,
    STORED,
    UTF8,
    ZIP64,
)
from ensembles.registry import register

SUFFIX = ".npy"
DTYPES = frozenset(
    np.dtype(name)
    for name in (
        *("float64", "float32", "float16", "int64", "int32", "int16", "int8", "bool"),
        *("uint64", "uint32", "uint16", "uint8"),
    )
)
HEADERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
LARGEST_HEADER = 12 << 10  # bytes; NumPy reads headers of at most 10,000
NOTED = 64 << 20  # bytes of temporary files
PADDING = 0xD935  # field of Android's zipalign, ignored by others


def _matches(head: FileHead) -> bool:
    return any(name.endswith(SUFFIX) for name in head.entries)


def _write(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    """Write headers without checksums first, and again when the tensors are written."""
    entries, end = _placed(file)
    encode_comment(file)  # raises ValueError before tensors are read
    with file.path.open("w+b", buffering=0) as opened:
        fd = opened.fileno()
        preallocate(fd, end)
        for entry in entries:
            pwrite_all(fd, memoryview(entry.array_header), entry.data)
        output = ChecksummedFile(fd)
        yield {e.name: ChecksummedSink(output, e.values) for e in entries}
        ranges = [(entry.values, entry.data + entry.size) for entry in entries]
        checksums = [
            combine(crc32(entry.array_header), crc, stop - start)
            for entry, (start, stop), crc in zip(
                entries, ranges, output.checksums(ranges), strict=True
            )
        ]
        for entry, crc in zip(entries, checksums, strict=True):
            pwrite_all(fd, memoryview(entry.local_header(crc)), entry.start)
        directory = b"".join(map(_Entry.directory_entry, entries, checksums))
        directory += end_records(
            len(entries), end, len(directory), encode_comment(file)
        )
        pwrite_all(fd, memoryview(directory), end)


@register(
    FORMATS,
    suffixes=(".npz",),
    matches=_matches,
    write=_write,
    keeps_metadata=True,
    keeps_aliases=False,
    dtypes=DTYPES,
    in_directories=False,  # statistics and other data of a model
)
def npz(path: Path) -> Checkpoint:
    """Layout of a NumPy archive.

    Arrays that are compressed, big-endian or in Fortran order are converted in a
    temporary file when they are first read.

    Parameters
    ----------
    path : Path
        Path of the archive, with any suffix.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the archive is damaged, or expands to more than 1 GiB and 100 times its size;
        if an array contains Python objects or its dtype cannot be averaged.
    """
    file = FileSource(path)
    archive = read_archive(file)
    checkpoint = Checkpoint(str(path), "npz", path, {})
    scratch, others = ScratchFile(file), []
    for entry in archive:
        if entry.name.endswith(SUFFIX):
            name = entry.name.removesuffix(SUFFIX)
            checkpoint.layout[name] = _tensor(file, entry, scratch, checkpoint.records)
        else:
            others.append(entry.name)
    checkpoint.parts[path.name] = list(checkpoint.layout)
    checkpoint.metadata.update(metadata_in(archive.comment))
    if others:
        checkpoint.notes.append(
            f"{len(others)} entries that are not arrays, such as {others[0]!r}, are "
            "left out"
        )
    if scratch.size > NOTED:
        checkpoint.notes.append(
            f"arrays that are compressed, big-endian or in Fortran order take "
            f"{scratch.size} bytes of the folder for temporary files"
        )
    return checkpoint


def _tensor(
    file: FileSource,
    entry: Entry,
    scratch: ScratchFile,
    records: list[ChecksumRecord],
) -> Tensor:
    """Tensor of an entry: its bytes in the file, or a conversion of them."""
    where = f"{file.path}: array {entry.name.removesuffix(SUFFIX)!r}"
    shape, by_column, dtype, n_header = _array_header(file, entry, where)
    _check_dtype(dtype, where)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_header + n_bytes != entry.size:
        raise ValueError(
            f"{where} of shape {shape} and dtype {dtype} needs {n_bytes} bytes after "
            f"its header of {n_header}, found {entry.size - n_header}; save the "
            "archive again"
        )
    native = dtype.newbyteorder("=")
    is_row_major = not by_column or sum(length > 1 for length in shape) < 2
    if entry.method == STORED and native == dtype and is_row_major:
        records.append(
            ChecksumRecord(file, entry.start, entry.size, entry.crc, entry.name)
        )
        return Tensor(native, shape, file, entry.start + n_header)
    conversion = Conversion(
        scratch, entry, n_header, dtype, shape, by_column=not is_row_major
    )
    return Tensor(native, shape, conversion, 0)


def _array_header(
    file: FileSource, entry: Entry, where: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, dtype of an array, and the size of its header."""
    stored = file.read(entry.start, min(entry.stored_size, LARGEST_HEADER))
    if entry.method == STORED:
        if entry.stored_size != entry.size:
            raise ValueError(
                f"{where} is not compressed, but has {entry.stored_size} bytes in the "
                f"file and {entry.size} bytes unpacked; save the archive again"
            )
    elif entry.method == DEFLATED:
        try:
            stored = zlib.decompressobj(-15).decompress(stored, LARGEST_HEADER)
        except zlib.error as error:
            raise ValueError(f"{where} is damaged: {error}") from None
    else:
        raise ValueError(
            f"{where} has the compression method {entry.method}; save it again with "
            "numpy.savez"
        )
    start = io.BytesIO(stored)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, by_column, dtype = HEADERS[npy.read_magic(start)](start)
    except (ValueError, KeyError, SyntaxError, TokenError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where} has no valid header: {reason}") from None
    except (TypeError, RecursionError, AttributeError) as error:
        raise ValueError(f"{where} has no valid header: {error}") from None
    if not all(type(length) is int and 0 <= length <= 1 << 62 for length in shape):
        raise ValueError(f"{where} has the invalid shape {shape}")
    return shape, by_column, dtype, start.tell()


def _check_dtype(dtype: np.dtype[Any], where: str) -> None:
    if dtype.hasobject:
        raise ValueError(
            f"{where} contains Python objects, and loading them could run code; save "
            "the numbers in it as arrays of their own"
        )
    if dtype.names or dtype.subdtype:
        raise ValueError(
            f"{where} has the structured dtype {dtype}; save each field as an array of "
            "its own"
        )
    if dtype.kind == "V":
        raise ValueError(
            f"{where} has dtype {dtype.str[1:]}, as NumPy stores bfloat16 and float8 "
            "without their names; convert it with "
            f"array.view(ml_dtypes.bfloat16).astype('float32') and save it again"
        )
    if dtype.kind == "c":
        raise ValueError(
            f"{where} has dtype {dtype}, which cannot be averaged; store it as real "
            "numbers: array.view(array.real.dtype)"
        )
    if dtype.newbyteorder("=") not in DTYPES:
        raise ValueError(
            f"{where} has dtype {dtype}, which cannot be averaged; save the archive "
            "without it, or convert it first"
        )


class _Entry(NamedTuple):
    """An array to write: its name, header and place in the archive."""

    name: str
    encoded: bytes
    array_header: bytes
    size: int
    start: int
    data: int

    @property
    def values(self) -> int:
        """Position of the elements, after the header of the array."""
        return self.data + len(self.array_header)

    def local_header(self, crc: int) -> bytes:
        """Header before the data; its padding aligns them."""
        zip64 = struct.pack("<HHQQ", ZIP64, 16, self.size, self.size)
        padding = self.data - self.start - LOCAL_SIZE - len(self.encoded) - len(zip64)
        extra = zip64 + struct.pack("<HHH", PADDING, padding - 4, ALIGNMENT)
        return (
            struct.pack("<4sH", LOCAL, 45)
            + self._shared_fields(crc, len(zip64) + padding)
            + self.encoded
            + extra.ljust(len(zip64) + padding, b"\0")
        )

    def directory_entry(self, crc: int) -> bytes:
        """Entry in the central directory."""
        zip64 = struct.pack("<HHQQQ", ZIP64, 24, self.size, self.size, self.start)
        return (
            struct.pack("<4sHH", CENTRAL, 45, 45)
            + self._shared_fields(crc, len(zip64))
            + struct.pack("<HHHII", 0, 0, 0, 0, LARGEST_32)
            + self.encoded
            + zip64
        )

    def _shared_fields(self, crc: int, n_extra: int) -> bytes:
        """Fields of both headers; the date is the first that zip files can have."""
        flags = 0 if self.encoded.isascii() else UTF8
        sizes = (LARGEST_32, LARGEST_32, len(self.encoded), n_extra)
        return struct.pack("<HHHHIIIHH", flags, STORED, 0, 0x21, crc, *sizes)


def _placed(file: OutputFile) -> tuple[list[_Entry], int]:
    """Entries in the order of the first member, and the end of the last one."""
    ordered = dict.fromkeys([*file.order, *file.layout])
    entries, offset = [], 0
    for name in (name for name in ordered if name in file.layout):
        if f"{name}{SUFFIX}" in file.layout:
            raise ValueError(
                f"{file.name}: tensors {name!r} and {name + SUFFIX!r} would have one "
                "name in an npz file; choose another format"
            )
        dtype, shape = file.layout[name]
        encoded = f"{name}{SUFFIX}".encode()
        if len(encoded) > LARGEST_16 or b"\0" in encoded:
            raise ValueError(
                f"{file.name}: tensor {name!r:.80} has a name that a zip file cannot "
                "store; choose another format"
            )
        header = io.BytesIO()
        fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(header, fields)
        size = len(header.getvalue()) + math.prod(shape) * dtype.itemsize
        data = offset + LOCAL_SIZE + len(encoded) + 20 + 6
        data += -data % ALIGNMENT
        entries.append(_Entry(name, encoded, header.getvalue(), size, offset, data))
        offset = data + size
    return entries, offset
