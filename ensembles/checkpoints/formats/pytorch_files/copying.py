"""Copy a PyTorch file, with other tensors and otherwise the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from ensembles.atomic_io import preallocate, pwrite_all
from ensembles.checkpoints.formats.checkpoint import (
    ChecksumRecord,
    FileSource,
    Tensor,
)
from ensembles.checkpoints.formats.output import OutputFile, Sink
from ensembles.checkpoints.formats.pytorch_files.strided import (
    StridedSink,
    StridedSource,
    file_range,
)
from ensembles.checkpoints.formats.zip_files.comments import encode_comment, metadata_in
from ensembles.checkpoints.formats.zip_files.crc import (
    ChecksummedFile,
    ChecksummedSink,
)
from ensembles.checkpoints.formats.zip_files.reading import Archive, read_archive
from ensembles.checkpoints.formats.zip_files.records import (
    DESCRIPTOR,
    END_SIZE,
    HAS_DESCRIPTOR,
    LOCAL,
)
from ensembles.parallel import chunks

CHUNK = 1 << 20


def write_copy(
    file: OutputFile, begin: int = 0, end: int | None = None
) -> Iterator[Mapping[str, Sink]]:
    """Copy the template, except for the tensors of the layout and their checksums.

    Parameters
    ----------
    file : OutputFile
        File to write, with a template. Both the zip format and the format of PyTorch
        before version 1.6, which has no checksums, are copied. The metadata become the
        comment of a zip file, unless it has a comment of another program.
    begin, end : int, default=0 and None
        Part of the template that is a PyTorch file, which keeps its size and comment;
        None ends it with the template.

    Yields
    ------
    mapping of str to Sink
        Sink of each tensor; it writes where the template has the tensor.

    Raises
    ------
    ValueError
        If the template is truncated, or its zip directory is damaged.
    """
    template = file.template
    assert template is not None
    tensors = [template.tensors[name] for name in file.layout]
    places = [place for t in tensors if t.nbytes and (place := file_range(t))]
    ranges = sorted({(place.start, place.stop) for place in places})
    # Elements of strided tensors may have other bytes in between.
    dense = sorted({(place.start, place.stop) for place in places if place.is_dense})
    changed = list(_changed(template.records, ranges))
    archive = _archive(template.file, begin, end)
    positions = _checksum_positions(template.file, archive, changed)
    comment = _comment_start(template.file, archive)
    stop = template.file.size if comment is None else comment
    size = stop if comment is None else comment + 2 + len(encode_comment(file))
    with file.path.open("w+b", buffering=0) as opened:
        fd = opened.fileno()
        preallocate(fd, size)
        for gap in _gaps(dense, stop):
            _copy(template.file, fd, *gap)
        output = ChecksummedFile(fd)
        yield {
            name: _sink(tensor, output)
            for name, tensor in zip(file.layout, tensors, strict=True)
        }
        entries = [(record.offset, record.offset + record.size) for record in changed]
        crcs = output.checksums(entries)
        for record, crc in zip(changed, crcs, strict=True):
            for position in positions[record.offset]:
                pwrite_all(fd, memoryview(struct.pack("<I", crc)), position)
        if comment is not None:
            text = encode_comment(file)
            pwrite_all(fd, memoryview(struct.pack("<H", len(text)) + text), comment)


def _sink(tensor: Tensor, output: ChecksummedFile) -> Sink:
    if isinstance(tensor.source, StridedSource):
        return StridedSink(tensor.source, output.fd)
    return ChecksummedSink(output, tensor.offset)


def _changed(
    records: Iterable[ChecksumRecord], ranges: list[tuple[int, int]]
) -> Iterator[ChecksumRecord]:
    """Entries that contain one of the ranges, which are sorted."""
    index = 0
    for record in sorted(records, key=lambda record: record.offset):
        while index < len(ranges) and ranges[index][0] < record.offset:
            index += 1
        if index < len(ranges) and ranges[index][0] < record.offset + record.size:
            yield record


def _gaps(ranges: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of a file outside of ranges that are sorted and do not overlap."""
    position = 0
    for start, stop in [*ranges, (size, size)]:
        if start > position:
            yield position, start
        position = stop


def _copy(source: FileSource, fd: int, start: int, stop: int) -> None:
    buffer = memoryview(bytearray(min(CHUNK, stop - start)))
    for begin, end in chunks(stop - start, CHUNK):
        part = buffer[: end - begin]
        source.read_into(part, start + begin)
        pwrite_all(fd, part, start + begin)


def _archive(file: FileSource, begin: int, end: int | None) -> Archive | None:
    """Directory of a zip file; None for the format before PyTorch 1.6."""
    is_zip = file.read(begin, 4) == LOCAL
    return read_archive(file, begin, end) if is_zip else None


def _comment_start(file: FileSource, archive: Archive | None) -> int | None:
    """Position of the length of the comment; None if the comment has to be kept."""
    if archive is None or (archive.comment and not metadata_in(archive.comment)):
        return None
    stop = archive.end + END_SIZE + len(archive.comment)
    return archive.end + END_SIZE - 2 if stop == file.size else None


def _checksum_positions(
    file: FileSource, archive: Archive | None, records: Iterable[ChecksumRecord]
) -> dict[int, list[int]]:
    """Offsets of the copies of each entry's checksum, by the offset of its data.

    The central directory has one copy, the local header or the descriptor after the
    data another.
    """
    wanted = {record.offset: record for record in records}
    positions: dict[int, list[int]] = {}
    if not wanted or archive is None:
        return positions
    for entry in archive:
        if entry.start in wanted and entry.size:
            other = entry.header + 14
            if file.read(entry.header + 6, 1)[0] & HAS_DESCRIPTOR:
                stop = entry.start + entry.size
                other = stop + 4 * (file.read(stop, 4) == DESCRIPTOR)
            positions[entry.start] = [entry.central + 16, other]
    for start, record in wanted.items():
        expected = struct.pack("<I", record.crc)
        copies = [file.read(position, 4) for position in positions.get(start, [])]
        if copies != [expected, expected]:
            raise ValueError(
                f"{file.path}: the checksums of entry {record.name!r} in the zip file "
                "differ; save the file again with torch.save, or pass "
                "only_weights=True (--only-weights)"
            )
    return positions
