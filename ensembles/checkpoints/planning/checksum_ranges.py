"""Divide checksummed bytes into tensors that are read anyway, and the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    Source,
    Tensor,
)
from ensembles.rules.rule import Rule


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
    records: Sequence[ChecksumRecord], tensors: Collection[Tensor]
) -> dict[ChecksumRecord, list[ChecksumRange]]:
    """Divide the bytes of each record into tensors and other ranges.

    Parameters
    ----------
    records : sequence of ChecksumRecord
        Records; a repeated one is counted once.
    tensors : collection of Tensor
        Tensors that are read. A tensor that overlaps an earlier one is ignored, and
        one whose source is not the file of a record.

    Returns
    -------
    dict of ChecksumRecord to list of ChecksumRange
        Consecutive ranges that cover each record.
    """
    stored: dict[Source, list[Tensor]] = {record.file: [] for record in records}
    for tensor in tensors:
        if tensor.source in stored:
            stored[tensor.source].append(tensor)
    for in_file in stored.values():
        in_file.sort(key=_offset)
    divided = {}
    for record in records:
        in_file = stored[record.file]
        first = bisect_left(in_file, record.offset, key=_offset)
        divided[record] = _divide(record, in_file, first)
    return divided


def count_read(
    checkpoints: Sequence[Checkpoint],
    targets: Sequence[TensorPlan],
    rule: Rule,
    params: Mapping[str, Any],
) -> int:
    """Bytes to read: tensors once per pass, and the rest of checksummed entries.

    Parameters
    ----------
    checkpoints : sequence of Checkpoint
        Members, then the base if there is one.
    targets : sequence of TensorPlan
        Tensors of the result.
    rule : Rule
        Rule that combines them; one with statistics reads tensors again for each pass.
    params : mapping of str to value
        Parameters of the rule.

    Returns
    -------
    int
        Number of bytes.
    """
    # Tied tensors are combined for each of their names, but share the statistics.
    combined = {t.position.name: t for t in targets if t.action == "combine"}.values()
    again = [t for t in combined for _ in rule.needed_passes(t.params(params))]
    records = [record for checkpoint in checkpoints for record in checkpoint.records]
    ranges = checksum_ranges(records, {t for target in targets for t in target.sources})
    return sum(
        piece.stop - piece.start
        for pieces in ranges.values()
        for piece in pieces
        if piece.tensor is None
    ) + sum(tensor.nbytes for target in (*targets, *again) for tensor in target.sources)


def _offset(tensor: Tensor) -> int:
    return tensor.offset


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
