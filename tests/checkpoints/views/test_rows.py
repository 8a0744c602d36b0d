"""Tensors whose rows are gathered from others."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import MemorySource, Tensor
from ensembles.checkpoints.views import rows as module
from ensembles.checkpoints.views.rows import (
    MEAN,
    ZERO,
    GatheredRows,
    common_dtype,
    mean_row,
    read_rows,
)
from ensembles.dtypes import round_to_dtype

BF16 = np.dtype(ml_dtypes.bfloat16)


def tensor_of(array: np.ndarray) -> Tensor:
    return Tensor(array.dtype, array.shape, MemorySource(array), 0)


def gathered_by_numpy(
    parts: list[Array], part: Array, row: Array, rows: Array, dtype: np.dtype[Any]
) -> Array:
    """The same rows, one by one, in float64."""
    out = np.zeros((len(part), parts[0].shape[1]), dtype)
    for token, (number, index) in enumerate(zip(part, row, strict=True)):
        if number >= 0:
            out[token] = parts[number][index]
        elif number == MEAN:
            values = [
                parts[i][rows[i, token]].astype(float)
                for i in range(len(parts))
                if rows[i, token] >= 0
            ]
            out[token] = round_to_dtype(np.sum(values, 0) / len(values), dtype)
    return out


@pytest.mark.parametrize("small", [0, 1 << 20])
@pytest.mark.parametrize(
    "dtypes", [(np.float32, np.float32), (BF16, np.float32), (BF16, BF16)]
)
def test_any_range_of_bytes_is_that_of_the_gathered_rows(
    dtypes: tuple[Any, Any], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", small)
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((9, 5)).astype(d) for d in dtypes]
    rows = np.stack([rng.integers(-1, 9, 12), np.arange(-3, 9).clip(-1)])
    rows[:, 4] = -1
    part = np.array([0, 1, 1, 0, ZERO, MEAN, 0, 0, 1, 1, 1, MEAN])
    rows[:, [5, 11]] = [[3, 2], [-1, 8]]
    rows[part[part >= 0], np.flatnonzero(part >= 0)] = np.arange((part >= 0).sum()) % 9
    row = rows[np.maximum(part, 0), np.arange(12)]
    tensor = GatheredRows([tensor_of(a) for a in parts], part, row, rows).tensor
    expected = gathered_by_numpy(parts, part, row, rows, tensor.dtype)
    assert (tensor.dtype, tensor.shape) == (
        common_dtype([*map(tensor_of, parts)]),
        (12, 5),
    )
    stored = expected.tobytes()
    for start in range(0, len(stored), 7):
        for stop in {start, start + 1, start + 30, len(stored)}:
            buffer = bytearray(max(min(stop, len(stored)) - start, 0))
            tensor.source.read_into(memoryview(buffer), start)
            assert bytes(buffer) == stored[start : start + len(buffer)]


def test_rows_may_follow_an_axis_of_size_one() -> None:
    bias = np.arange(4, dtype=np.float32).reshape(1, 4)
    row = np.array([3, 0, 1])
    view = GatheredRows([tensor_of(bias)], np.zeros(3, int), row, row[None], axis=1)
    assert view.tensor.shape == (1, 3)
    assert read_rows(view.tensor, 0, 3, axis=1).ravel().tolist() == [3, 0, 1]


def test_the_mean_row_is_the_rounded_mean_of_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STEP", 64)
    table = np.random.default_rng(0).standard_normal((50, 3)).astype(BF16)
    mean = mean_row(tensor_of(table))
    expected = round_to_dtype(table.astype(float).mean(0), BF16)
    assert mean.shape == (1, 3)
    np.testing.assert_array_equal(read_rows(mean, 0, 1)[0], expected)


def test_bfloat16_and_float16_have_float32_in_common() -> None:
    tables = [np.zeros((1, 1), d) for d in (BF16, np.float16)]
    assert common_dtype([tensor_of(table) for table in tables]) == np.float32
