"""Checksums of parts give the checksum of the whole."""

from __future__ import annotations

import importlib.util
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles.checkpoints.formats.zip_files import crc
from ensembles.checkpoints.formats.zip_files.crc import (
    ChecksummedFile,
    ChecksummedSink,
    combine,
    crc32,
)


@settings(max_examples=200)
@given(content=st.binary(max_size=300), share=st.floats(0, 1))
def test_the_checksum_of_two_parts_is_that_of_the_whole(
    content: bytes, share: float
) -> None:
    size = int(share * len(content))
    first, second = content[:size], content[size:]
    whole = combine(zlib.crc32(first), zlib.crc32(second), len(second))
    assert whole == zlib.crc32(content) == crc32(content)


def test_without_zlib_ng_it_is_that_of_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    path = Path(str(crc.__file__))
    spec = importlib.util.spec_from_file_location("crc_again", path)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.crc32 is zlib.crc32


def test_long_parts_are_combined(rng: np.random.Generator) -> None:
    first, second = rng.bytes(10), bytes(3_000_000)
    whole = combine(zlib.crc32(first), zlib.crc32(second), len(second))
    assert whole == zlib.crc32(first + second)


def test_blocks_written_in_any_order_have_the_checksum_of_the_file(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    content = rng.bytes(1000)
    with (tmp_path / "out").open("w+b", buffering=0) as opened:
        os.truncate(opened.fileno(), 1100)
        file = ChecksummedFile(opened.fileno())
        sink = ChecksummedSink(file, 100)
        for start in rng.permutation(range(0, 1000, 50)).tolist():
            sink.write(memoryview(content[start : start + 50]), start)
        read = []
        file._read = lambda *place: read.append(place) or 0  # type: ignore[func-returns-value,method-assign]
        ranges = [(100, 1100), (100, 100), (200, 350), (1050, 1100)]
        crcs = list(file.checksums(ranges))
    parts = (content, b"", content[100:250], content[950:])
    assert crcs == list(map(zlib.crc32, parts))
    assert read == []


def test_a_range_that_was_not_written_exactly_once_is_read_again(
    tmp_path: Path,
) -> None:
    with (tmp_path / "out").open("w+b", buffering=0) as opened:
        opened.write(b"0123456789")
        file = ChecksummedFile(opened.fileno())
        for start, content in ((2, b"ab"), (2, b"cd"), (5, b"efg")):
            file.write(memoryview(content), start)
        whole = b"01cd4efg89"
        ranges = [(0, 10), (2, 4), (5, 8), (4, 6), (8, 10), (4, 8)]
        crcs = list(file.checksums(ranges))
    assert crcs == [zlib.crc32(whole[start:stop]) for start, stop in ranges]
