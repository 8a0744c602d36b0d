"""Rounding, against exact fractions that share no code with it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ensembles.dtypes import FLOATS, FloatFormat, is_float, round_to_dtype
from ensembles.kernels.casting import narrow

Dtype = np.dtype[Any]
DTYPES = list(FLOATS)
NARROW = [dtype for dtype in DTYPES if dtype.itemsize < 4]


def nearest_bits(value: float, form: FloatFormat) -> int:
    """Bits of the nearest number, ties to even, in fractions and whole numbers."""
    sign = 1 << (8 * form.dtype.itemsize - 1) if math.copysign(1, value) < 0 else 0
    if value == 0:
        return sign
    if math.isinf(value):
        return sign | form.special
    exact = Fraction(abs(value))
    exponent = max(math.frexp(value)[1] - 1, 1 - form.bias)
    quantum = Fraction(2) ** (exponent - form.mantissa)
    count = round(exact / quantum)  # of a fraction: to the nearest, ties to even
    # Patterns of positive numbers count up by one, from one quantum to the next.
    bits = ((exponent + form.bias - 1) << form.mantissa) + count
    return int(sign | min(bits, form.special))


def neighbourhood(dtype: Dtype, rng: np.random.Generator) -> NDArray[np.float64]:
    """Numbers of a format, the middles between them, and what lies just beside."""
    form = FLOATS[dtype]
    n_patterns = min(form.special, 1500)
    bits = (
        rng.choice(form.special, n_patterns, replace=False)
        if form.special < 2**20
        else rng.integers(0, form.special, n_patterns)
    )
    edges = [0, 1, 2, form.special - 2, form.special - 1, 1 << form.mantissa]
    bits = np.union1d(bits, edges).astype(form.bits)
    numbers = bits.view(dtype).astype(np.float64)
    nexts = (bits + form.bits.type(1)).view(dtype).astype(np.float64)
    steps = np.where(np.isfinite(nexts), nexts - numbers, 0)
    steps[bits == form.special - 1] = numbers[-1] - numbers[-2]
    middles = numbers + steps / 2
    found = np.concatenate([numbers, middles])
    found = np.concatenate([found, np.nextafter(found, 0), np.nextafter(found, np.inf)])
    return np.concatenate([found, -found])


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> Dtype:
    found: Dtype = request.param
    return found


def test_formats_agree_with_what_is_known_of_them(dtype: Dtype) -> None:
    form = FLOATS[dtype]
    known = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    assert form.mantissa == known.nmant
    assert form.smallest_normal == float(known.smallest_normal)
    largest = np.array(form.special - 1, form.bits).view(dtype)
    assert float(largest) == float(known.max)
    beyond = np.array(form.largest, form.bits).view(dtype)
    assert not np.isnan(beyond)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        assert np.isnan(np.array(form.largest + 1, form.bits).view(dtype))
    assert form.bits.itemsize == dtype.itemsize


@pytest.mark.parametrize("name", [np.int64, np.bool_, ml_dtypes.float8_e4m3b11fnuz])
def test_other_formats_are_no_floats(name: Any) -> None:
    assert not is_float(np.dtype(name))
    assert is_float(np.dtype(np.float32))


def test_rounding_takes_the_nearest_number_and_the_even_one_of_two(
    dtype: Dtype, rng: np.random.Generator
) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        values = neighbourhood(dtype, rng)
    anything = rng.integers(0, 2**64 - 1, 2000, np.uint64, endpoint=True)
    values = np.concatenate([values, anything.view(np.float64)])
    values = values[~np.isnan(values)]
    form = FLOATS[dtype]
    expected = [nearest_bits(value, form) for value in values.tolist()]
    assert round_to_dtype(values, dtype).view(form.bits).tolist() == expected
    assert narrow(values, dtype).view(form.bits).tolist() == expected


def test_rounding_keeps_what_is_no_number(dtype: Dtype) -> None:
    for function in (round_to_dtype, narrow):
        result = function(np.array([np.nan, -np.nan, np.inf, -np.inf]), dtype)
        assert result.dtype == dtype
        assert np.isnan(result[:2]).all()
        special = np.array(FLOATS[dtype].special, FLOATS[dtype].bits).view(dtype)
        assert result[2].tobytes() == special.tobytes()


def test_every_number_of_a_narrow_format_rounds_to_itself() -> None:
    for dtype in NARROW:
        form = FLOATS[dtype]
        bits = np.arange(2 ** (8 * dtype.itemsize)).astype(form.bits)
        numbers = bits.view(dtype)
        with np.errstate(invalid="ignore"):  # signalling NaNs are among them
            kept = ~np.isnan(numbers)
        for function in (round_to_dtype, narrow):
            result = function(numbers[kept].astype(np.float64), dtype)
            assert np.array_equal(result.view(form.bits), bits[kept])


def test_rounding_is_not_by_way_of_float32() -> None:
    above_half = np.array([1 + 2**-8 + 2**-40])
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    assert float(above_half.astype(np.float32).astype(bfloat16)[0]) == 1
    assert float(round_to_dtype(above_half, bfloat16)[0]) == 1 + 2**-7
    assert float(narrow(above_half, bfloat16)[0]) == 1 + 2**-7


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_rounding_keeps_the_shape(dtype: Dtype, shape: tuple[int, ...]) -> None:
    assert round_to_dtype(np.ones(shape), dtype).shape == shape
