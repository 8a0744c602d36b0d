"""Checksummed bytes are divided into tensors that are read, and the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints.formats.checkpoint import (
    ChecksumRecord,
    FileSource,
    MemorySource,
    Tensor,
)
from ensembles.checkpoints.planning.checksum_ranges import checksum_ranges

BYTE = np.dtype(np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> FileSource:
    (tmp_path / "a").write_bytes(bytes(100))
    return FileSource(tmp_path / "a")


def bounds(file: FileSource, *tensors: tuple[int, int]) -> list[tuple[int, int, bool]]:
    """Ranges of a record of bytes 10 to 50, and whether a tensor has them."""
    record = ChecksumRecord(file, 10, 40, 0, "data/0")
    read = [Tensor(BYTE, (stop - start,), file, start) for start, stop in tensors]
    (ranges,) = checksum_ranges([record, record], read).values()
    for part in ranges:
        if part.tensor is not None:
            assert part.tensor.offset == part.start
            assert part.tensor.nbytes == part.stop - part.start
    return [(part.start, part.stop, part.tensor is not None) for part in ranges]


def test_a_tensor_may_cover_a_record(file: FileSource) -> None:
    assert bounds(file, (10, 50)) == [(10, 50, True)]


def test_gaps_are_read_for_the_checksum_alone(file: FileSource) -> None:
    assert bounds(file) == [(10, 50, False)]
    found = bounds(file, (20, 30), (35, 40), (30, 30))
    assert [part[:2] for part in found] == [
        *((10, 20), (20, 30), (30, 35)),
        *((35, 40), (40, 50)),
    ]
    assert [part[2] for part in found] == [False, True, False, True, False]


def test_tensors_that_overlap_others_or_the_record_are_ignored(
    file: FileSource,
) -> None:
    found = bounds(file, (5, 15), (20, 30), (25, 40), (45, 60), (60, 70))
    assert found == [(10, 20, False), (20, 30, True), (30, 50, False)]


def test_tensors_of_other_sources_are_not_in_the_file(file: FileSource) -> None:
    record = ChecksumRecord(file, 10, 40, 0, "data/0")
    tensor = Tensor(BYTE, (40,), MemorySource(np.zeros(50, np.uint8)), 10)
    (ranges,) = checksum_ranges([record], [tensor]).values()
    assert ranges == [(10, 50, None)]
    empty = ChecksumRecord(file, 10, 0, 0, "data/1")
    assert checksum_ranges([empty], [tensor]) == {empty: []}
