"""Divide checksummed bytes into tensors that are read anyway, and the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from ensembles.checkpoints.formats.checkpoint import ChecksumRecord, Source, Tensor


class ChecksumRange(NamedTuple):
    """Part of the bytes that a checksum covers.

    Parameters
    ----------
    start : int
        Offset in the file of the first byte.
    stop : int
        Offset of the end.
    tensor : Tensor or None
        Tensor that has exactly these bytes; None if no tensor has them.
    """

    start: int
    stop: int
    tensor: Tensor | None


def checksum_ranges(
    records: Iterable[ChecksumRecord], tensors: Collection[Tensor]
) -> dict[ChecksumRecord, list[ChecksumRange]]:
    """Divide the bytes of each record into tensors and other ranges.

    Parameters
    ----------
    records : iterable of ChecksumRecord
        Records; a repeated one is counted once.
    tensors : collection of Tensor
        Tensors that are read. A tensor that overlaps an earlier one is ignored, and
        one whose source is not the file of a record.

    Returns
    -------
    dict of ChecksumRecord to list of ChecksumRange
        Consecutive ranges that cover each record.
    """
    by_source: dict[Source, list[Tensor]] = {}
    for tensor in tensors:
        by_source.setdefault(tensor.source, []).append(tensor)
    offsets: dict[Source, list[int]] = {}
    for source, stored in by_source.items():
        stored.sort(key=lambda tensor: tensor.offset)
        offsets[source] = [tensor.offset for tensor in stored]
    divided = {}
    for record in records:
        first = bisect_left(offsets.get(record.file, []), record.offset)
        divided[record] = _divide(record, by_source.get(record.file, []), first)
    return divided


def _divide(
    record: ChecksumRecord, tensors: Sequence[Tensor], first: int
) -> list[ChecksumRange]:
    """Ranges of a record; ``tensors`` are sorted by offset, from ``first`` on."""
    ranges = []
    position, end = record.offset, record.offset + record.size
    for index in range(first, len(tensors)):
        tensor = tensors[index]
        stop = tensor.offset + tensor.nbytes
        if tensor.offset >= end:
            break
        if tensor.nbytes and tensor.offset >= position and stop <= end:
            if tensor.offset > position:
                ranges.append(ChecksumRange(position, tensor.offset, None))
            ranges.append(ChecksumRange(tensor.offset, stop, tensor))
            position = stop
    if position < end:
        ranges.append(ChecksumRange(position, end, None))
    return ranges
