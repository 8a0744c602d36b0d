"""Verify the CRC-32 checksums in PyTorch checkpoints before tensors are used."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial

from ensembles.checkpoints.formats.checkpoint import Checkpoint, ChecksumRecord
from ensembles.parallel import map_threads

CHUNK = 1 << 20


def verify_checksums(
    members: Sequence[Checkpoint], n_threads: int, progress: Callable[[int], None]
) -> None:
    """Verify the stored checksums of members; safetensors files do not have any.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members, whose ``records`` are read completely.
    n_threads : int
        Largest number of threads.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.

    Raises
    ------
    ValueError
        If a checksum does not match; the message names the file and the entry.
    """
    records = [record for member in members for record in member.records]
    map_threads(records, lambda: partial(_verify, progress=progress), n_threads)


def _verify(record: ChecksumRecord, *, progress: Callable[[int], None]) -> None:
    crc = 0
    buffer = bytearray(min(CHUNK, record.size))
    for start in range(0, record.size, CHUNK):
        view = memoryview(buffer)[: min(CHUNK, record.size - start)]
        record.file.read_into(view, record.offset + start)
        crc = zlib.crc32(view, crc)
        progress(len(view))
    if crc != record.crc:
        raise ValueError(
            f"{record.file.path} is damaged: entry {record.name!r} does not match its "
            "checksum; copy or download the file again"
        )
