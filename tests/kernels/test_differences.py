"""Sums over differences: compiled loops against NumPy, and both against math.fsum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.dtypes import FLOATS
from ensembles.kernels import jit
from ensembles.kernels.differences import (
    BLOCK,
    DifferenceSums,
    difference_sums,
    total,
)
from tests.checkpoints.building import floats

DTYPES = [*FLOATS, np.dtype(np.int32), np.dtype(np.bool_)]


def values(rng: np.random.Generator, dtype: np.dtype[Any], size: int) -> Array:
    if dtype in FLOATS:
        return floats(rng, (size,), dtype, wide=False)
    return rng.integers(0, 2 if dtype.kind == "b" else 1000, size).astype(dtype)


def both(monkeypatch: pytest.MonkeyPatch, a: Array, b: Array) -> tuple[Array, Array]:
    """Rows of the compiled loops, and of NumPy."""
    monkeypatch.setattr(jit, "WORTHWHILE", -1)
    compiled = difference_sums(a, b)
    monkeypatch.setattr(jit, "WORTHWHILE", 1 << 62)
    return compiled, difference_sums(a, b)


@pytest.mark.parametrize("second", DTYPES, ids=str)
@pytest.mark.parametrize("first", [np.float32, "bfloat16"], ids=str)
def test_loops_equal_numpy_bit_for_bit(
    first: Any, second: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (0, 1, 63, 200, 1100, BLOCK + 17):
        a, b = (values(rng, np.dtype(dtype), size) for dtype in (first, second))
        compiled, reference = both(monkeypatch, a, b)
        assert compiled.tobytes() == reference.tobytes()
        assert compiled.shape == (-(-size // BLOCK), len(DifferenceSums._fields))


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_sums_are_near_fsum_without_what_is_not_finite(
    dtype: Any, rng: np.random.Generator
) -> None:
    a, b = floats(rng, (3000,), dtype), floats(rng, (3000,), dtype)
    if dtype.itemsize > 1:
        a[::100], b[50::300] = np.inf, np.nan
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    sums = total(difference_sums(a, b))
    assert sums.n_nonfinite == np.count_nonzero(~finite)
    unit = math.ldexp(1.0, int(sums.exponent))
    x, y = x[finite] / unit, y[finite] / unit
    for value, products in (
        (sums.aa, x * x),
        (sums.bb, y * y),
        (sums.dd, (y - x) ** 2),
    ):
        assert value == pytest.approx(math.fsum(products), rel=1e-13)
    scale = math.fsum(np.abs(x * y))
    assert sums.ab == pytest.approx(math.fsum(x * y), abs=1e-13 * scale)
    assert sums.largest == np.abs(y - x).max() * unit


@pytest.mark.parametrize("size", [1e300, 1e-300, 5e-324])
def test_squares_beyond_float64_do_not_overflow_or_vanish(size: float) -> None:
    a, b = np.full(10, size), np.full(10, size)
    b[3] = 2 * size
    sums = total(np.concatenate([difference_sums(a, b), difference_sums(a, a)]))
    assert math.sqrt(sums.dd / sums.aa) == pytest.approx(math.sqrt(1 / 20))
    assert sums.largest == size
