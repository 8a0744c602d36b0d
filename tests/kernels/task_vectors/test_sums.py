"""Loops over task vectors equal their NumPy reference, and float64 sums are exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ensembles.dtypes import FLOATS
from ensembles.kernels import jit
from ensembles.kernels.gram import (
    BLOCK,
    difference_gram,
    difference_squares,
    gram,
)
from ensembles.kernels.jit import LANE, PIECE
from ensembles.kernels.task_vectors.sums import (
    add_task_vectors,
    add_task_vectors_reference,
)
from tests.kernels.test_kernels import PLAIN, numbers, patterns, same

CASES = [
    ([1.0, 1.0, 1.0], 1.0, 1.0),
    ([0.3, -1.2, 0.5], 0.7, 3.0),
    ([-2.0, 1.0, 2.5], -2.0, 0.1),
]
each_dtype = pytest.mark.parametrize("dtype", list(FLOATS), ids=str)


@contextmanager
def looping(worthwhile: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "WORTHWHILE", worthwhile)
        yield


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_of_task_vectors_equal_their_numpy_reference(
    dtype: np.dtype[Any], case: Any, rng: np.random.Generator
) -> None:
    weights, scale, divisor = case
    stack, base = patterns(dtype, rng), patterns(dtype, rng)[1]
    with looping(-1):
        found = add_task_vectors(
            stack, np.array(weights), base, scale=scale, divisor=divisor
        )
    same(found, add_task_vectors_reference(stack, weights, base, scale, divisor))


@each_dtype
@pytest.mark.parametrize("size", [0, 1, LANE + 1])
def test_sums_of_any_size_equal_their_numpy_reference(
    dtype: np.dtype[Any], size: int, rng: np.random.Generator
) -> None:
    stack, weights = numbers(dtype, rng, (4, size)), np.ones(3)
    expected = add_task_vectors_reference(stack[1:], weights, stack[0], 1.0, 1.0)
    for worthwhile in (-1, 1 << 60):
        with looping(worthwhile):
            same(add_task_vectors(stack[1:], weights, stack[0]), expected)


@pytest.mark.parametrize("divisor", [1.0, 3.0, 0.7])
def test_float64_sums_are_rounded_once_where_base_and_sum_cancel(
    divisor: float, rng: np.random.Generator
) -> None:
    stack = rng.normal(size=(3, 300))
    base = np.nextafter(-stack[0] / 2, 1)
    scale, weights = 0.7, np.array([1.0, 0.3, -0.2])
    factor = Fraction(scale) / Fraction(divisor)
    exact = [
        Fraction(origin)
        + factor
        * sum(
            Fraction(w) * (Fraction(x) - Fraction(origin))
            for w, x in zip(weights.tolist(), column, strict=True)
        )
        for origin, *column in np.array([base, *stack]).T.tolist()
    ]
    found = add_task_vectors(stack, weights, base, scale=scale, divisor=divisor)
    assert found.tolist() == [float(x) for x in exact]


def test_huge_float64_members_have_plain_sums() -> None:
    stack = np.array([[1e308, np.inf, 1e300, np.nan]])
    base = np.array([-1e308, 1.0, 1e300, 1.0])
    for worthwhile in (-1, 1 << 60):
        with looping(worthwhile):
            found = add_task_vectors(stack, np.array([0.5]), base)
        np.testing.assert_array_equal(found, [np.inf, np.inf, 1e300, np.nan])


@each_dtype
@pytest.mark.parametrize("size", [0, 7, PIECE + 3, BLOCK + 70])
def test_products_of_differences_equal_those_of_arrays(
    dtype: np.dtype[Any], size: int, rng: np.random.Generator
) -> None:
    stack = numbers(dtype, rng, (4, min(size, 99) if PLAIN else size))
    deltas = stack[1:].astype(np.float64) - stack[0].astype(np.float64)
    expected = gram(deltas)
    for worthwhile in (-1, 1 << 60):
        with looping(worthwhile):
            found = difference_gram(stack[1:], stack[0])
            assert found.tobytes() == expected.tobytes()
            squares = difference_squares(stack[1:], stack[0])
            diagonals = np.diagonal(expected, axis1=1, axis2=2)
            assert squares.tobytes() == diagonals.tobytes()
