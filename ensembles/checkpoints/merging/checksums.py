"""Verify the CRC-32 checksums in PyTorch checkpoints of the tensors that were read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    Tensor,
)
from ensembles.checkpoints.formats.zip_files.crc import combine, crc32, damaged
from ensembles.checkpoints.planning.checksum_ranges import (
    ChecksumRange,
    checksum_ranges,
)
from ensembles.parallel import chunks, map_threads

CHUNK = 1 << 20
Progress = Callable[[int], None]


def verify_checksums(
    checkpoints: Iterable[Checkpoint],
    crcs: Mapping[Tensor, int],
    n_threads: int,
    progress: Progress,
) -> None:
    """Verify the stored checksums of checkpoints; safetensors files do not have any.

    Parameters
    ----------
    checkpoints : iterable of Checkpoint
        Checkpoints, all of whose ``records`` are verified.
    crcs : mapping of Tensor to int
        CRC-32 of tensors that were read; all other bytes of the records are read.
    n_threads : int
        Largest number of threads.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.

    Raises
    ------
    ValueError
        If a checksum does not match; the message names the file and the entry.
    """
    records = [record for checkpoint in checkpoints for record in checkpoint.records]
    ranges = list(checksum_ranges(records, crcs.keys()).items())
    verify = partial(_verify, crcs=crcs, progress=progress)
    map_threads(ranges, lambda: verify, n_threads)


@contextmanager
def damage_first(checkpoints: Sequence[Checkpoint], n_threads: int) -> Iterator[None]:
    """Context manager that reports a damaged member rather than its consequences.

    Parameters
    ----------
    checkpoints : sequence of Checkpoint
        Checkpoints that the block reads.
    n_threads : int
        Largest number of threads.

    Raises
    ------
    ValueError
        If the block raises it; if a checksum does not match, the message names that
        file. Without this, damage may look like integers that differ between members.
    """
    try:
        yield
    except ValueError:
        verify_checksums(checkpoints, {}, n_threads, lambda n_bytes: None)
        raise


def _verify(
    divided: tuple[ChecksumRecord, Sequence[ChecksumRange]],
    *,
    crcs: Mapping[Tensor, int],
    progress: Progress,
) -> None:
    record, ranges = divided
    crc = 0
    for part in ranges:
        size = part.stop - part.start
        if part.tensor is not None:
            crc = combine(crc, crcs[part.tensor], size)
            continue
        buffer = memoryview(bytearray(min(CHUNK, size)))
        for begin, end in chunks(size, CHUNK):
            read = buffer[: end - begin]
            record.file.read_into(read, part.start + begin)
            crc = crc32(read, crc)
            progress(len(read))
    if crc != record.crc:
        raise damaged(record)
