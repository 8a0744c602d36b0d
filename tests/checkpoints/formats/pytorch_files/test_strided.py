"""Strided views in files are gathered and scattered as NumPy does it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.formats.pytorch_files import strided
from ensembles.checkpoints.formats.pytorch_files.strided import (
    StridedSink,
    StridedSource,
)

NUMBERS = np.random.default_rng(0).integers(0, 1 << 31, 20_000, dtype=np.int32)


class CountedSource(FileSource):
    """File that records the sizes of all reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sizes: list[int] = []

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.sizes.append(len(buffer))
        super().read_into(buffer, offset)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> FileSource:
    path = tmp_path_factory.mktemp("strided") / "numbers"
    NUMBERS.tofile(path)
    return FileSource(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_part_of_any_view_is_read_as_numpy_reads_it(
    file: FileSource, data: st.DataObject
) -> None:
    axes = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 600)), min_size=1)
    shape, strides = zip(*data.draw(axes.filter(lambda a: len(a) <= 4)), strict=True)
    start = data.draw(st.integers(0, 50))
    view = as_strided(NUMBERS[start:], shape, [4 * step for step in strides])
    elements = view.reshape(-1)
    stop = data.draw(st.integers(0, elements.size))
    first = data.draw(st.integers(0, stop))
    buffer = bytearray(4 * (stop - first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "LONGEST", data.draw(st.sampled_from([4, 60, 1 << 20])))
        source = StridedSource(file, 4 * start, shape, strides, 4)
        source.read_into(memoryview(buffer), 4 * first)
    assert bytes(buffer) == elements[first:stop].tobytes()


def test_distant_elements_take_no_more_memory_than_close_ones(tmp_path: Path) -> None:
    n_rows, n_columns = 8192, 1024  # neighbors of a column are 4096 bytes apart
    path = tmp_path / "hole"
    with path.open("wb") as opened:
        opened.truncate(4 * n_rows * n_columns)
    counted = CountedSource(path)
    source = StridedSource(counted, 0, (n_columns, n_rows), (1, n_columns), 4)
    buffer = bytearray(4 << 20)
    source.read_into(memoryview(buffer), 0)
    assert max(counted.sizes) <= 1 << 20
    assert sum(counted.sizes) <= 4 * n_rows * n_columns  # each row once


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_part_of_a_view_without_overlap_is_written_as_numpy_writes_it(
    file: FileSource, data: st.DataObject
) -> None:
    steps = data.draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3))))[:4]
    axes, extent = [], 1
    for length, factor in steps:
        axes.append((length, extent * factor))
        extent = (length - 1) * axes[-1][1] + extent
    assume(extent + 50 <= NUMBERS.size)  # NumPy would write beyond the array
    axes = data.draw(st.permutations(axes)) or [(3, 2)]
    shape, strides = zip(*axes, strict=True)
    start = data.draw(st.integers(0, 50))
    source = StridedSource(file, 4 * start, shape, strides, 4)
    assert source.has_own_bytes
    expected = NUMBERS.copy()
    view = as_strided(expected[start:], shape, [4 * step for step in strides])
    stop = data.draw(st.integers(0, view.size))
    first = data.draw(st.integers(0, stop))
    new = np.arange(first, stop, dtype=np.int32)
    for index, value in enumerate(new, first):
        view[np.unravel_index(index, shape)] = value
    path = file.path.with_name("copy")
    NUMBERS.tofile(path)
    fd = os.open(path, os.O_RDWR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "LONGEST", data.draw(st.sampled_from([4, 60, 1 << 20])))
        StridedSink(source, fd).write(memoryview(new.tobytes()), 4 * first)
    os.close(fd)
    np.testing.assert_array_equal(np.fromfile(path, np.int32), expected)


@pytest.mark.parametrize("strides", [(0, 1), (1, 1), (2, 1)])
def test_views_whose_elements_overlap_are_recognized(
    file: FileSource, strides: tuple[int, ...]
) -> None:
    assert not StridedSource(file, 0, (4, 3), strides, 4).has_own_bytes


def test_a_copy_that_is_too_short_is_an_error(file: FileSource, tmp_path: Path) -> None:
    with (tmp_path / "short").open("w+b") as opened:
        sink = StridedSink(StridedSource(file, 0, (4, 3), (1, 4), 4), opened.fileno())
        with pytest.raises(ValueError, match="must have its size"):
            sink.write(memoryview(bytes(48)), 0)
