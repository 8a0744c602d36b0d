"""Tensors stored as chunks: any range of elements, from any division into boxes."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensembles.checkpoints.formats.checkpoint import FileSource, MemorySource
from ensembles.checkpoints.formats.distributed import items
from ensembles.checkpoints.formats.distributed.chunks import (
    Chunk,
    ChunkedSource,
    boxes,
    check_chunks,
)
from ensembles.checkpoints.formats.distributed.items import Heads, ItemSource
from ensembles.checkpoints.formats.pytorch_files.reading import TorchFile, read_file


def cut(array: Any, edges: list[list[int]]) -> list[Chunk]:
    """Divide an array at the edges of each axis."""
    spans = [list(itertools.pairwise(axis)) for axis in edges]
    return [
        Chunk(
            tuple(start for start, _ in cell),
            tuple(stop - start for start, stop in cell),
            MemorySource(array[tuple(slice(*span) for span in cell)]),
        )
        for cell in itertools.product(*spans)
    ]


def boxes_of(chunks: list[Chunk]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(chunk.start, chunk.shape) for chunk in chunks]


@given(st.data())
def test_any_range_of_any_division_is_that_of_the_whole(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), max_size=4)))
    cuts = [data.draw(st.sets(st.integers(1, n), max_size=3)) for n in shape]
    edges = [sorted({0, n, *axis}) for n, axis in zip(shape, cuts, strict=True)]
    whole = np.arange(math.prod(shape), dtype=np.uint16).reshape(shape)
    chunks = cut(whole, edges)
    assert check_chunks(shape, boxes_of(chunks)) is None
    stop = data.draw(st.integers(1, whole.size))
    start = data.draw(st.integers(0, stop - 1))
    part = np.zeros(stop - start, np.uint16)
    source = ChunkedSource(shape, 2, data.draw(st.permutations(chunks)))
    source.read_into(part.view(np.uint8).data, 2 * start)
    np.testing.assert_array_equal(part, whole.reshape(-1)[start:stop])


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_boxes_are_neighbors_in_c_order(
    lengths: list[int], data: st.DataObject
) -> None:
    shape = tuple(lengths)
    stop = data.draw(st.integers(1, math.prod(shape)))
    start = data.draw(st.integers(0, stop - 1))
    indexes = np.arange(math.prod(shape)).reshape(shape)
    parts = [
        indexes[tuple(slice(a, a + n) for a, n in zip(*box, strict=True))].reshape(-1)
        for box in boxes(shape, start, stop)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(start, stop))
    assert len(parts) <= max(1, 2 * len(shape) - 1)


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([((0, 0), (2, 3))], "6 of 12 elements"),
        ([((0, 0), (2, 3)), ((3, 0), (2, 3))], "not inside"),
        ([((0, 0), (4, 2)), ((0, 1), (4, 1))], "overlap"),
        ([((0, 0), (4, 2)), ((0, 1), (4, 2))], "overlap"),
        ([((0,), (4,)), ((0, 0), (4, 3))], "1 axes, the tensor 2"),
        # As many elements as the tensor, with an overlap and a gap.
        ([((0, 0), (3, 3)), ((2, 0), (1, 3))], "overlap"),
    ],
)
def test_chunks_that_do_not_cover_a_tensor_once_are_named(
    chunks: Any, reason: str
) -> None:
    assert reason in (check_chunks((4, 3), chunks) or "")


def test_chunks_need_not_be_a_grid() -> None:
    bricks = [((0, 0), (2, 2)), ((2, 0), (2, 1)), ((0, 2), (1, 1)), ((1, 2), (3, 1))]
    assert check_chunks((4, 3), [*bricks, ((2, 1), (2, 1))]) is None
    assert check_chunks((0, 3), []) is None


def test_items_of_one_shape_are_found_without_their_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [torch.randn(4, 3), torch.randn(4, 3), torch.randn(3, 4).T]
    data, ends = b"", [0]
    for tensor in tensors:
        torch.save(tensor, stream := io.BytesIO())
        data += stream.getvalue()
        ends.append(len(data))
    (tmp_path / "x").write_bytes(data)
    file, heads = FileSource(tmp_path / "x"), Heads()
    read: list[int] = []

    def counted(file: FileSource, begin: int, end: int) -> TorchFile:
        read.append(begin)
        return read_file(file, begin, end)

    monkeypatch.setattr(items, "read_file", counted)
    for tensor, begin, end in zip(tensors, ends, ends[1:], strict=False):
        shape = tuple(tensor.shape)
        source = ItemSource(file, begin, end, np.dtype("f4"), shape, "w", heads)
        part = np.zeros(shape, np.float32)
        source.read_into(part.reshape(-1).view(np.uint8).data, 0)
        np.testing.assert_array_equal(part, tensor.numpy())
    assert read == [ends[0], ends[2]]  # the last one has other strides
