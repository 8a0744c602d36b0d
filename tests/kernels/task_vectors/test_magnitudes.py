"""Histograms of magnitudes: compiled loops against NumPy, and both against a sort."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ensembles._typing import Array, Counts, Float64
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels import jit
from ensembles.kernels.task_vectors.magnitudes import (
    Bins,
    count_lower,
    count_upper,
    deltas_between,
    find_bins,
    find_magnitudes,
)

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -1e-310, 1e308, 1.5, -1.5]


@pytest.fixture(params=["loops", "numpy"], autouse=True)
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    worthwhile = -1 if request.param == "loops" else 1 << 62
    monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)


def magnitudes_at(
    stack: Array, base: Array, ranks: list[list[int]], cuts: list[int]
) -> Float64:
    """Magnitudes at ranks, from blocks."""
    upper: Counts | None = None
    lower: Counts | None = None
    blocks = list(pairwise([*cuts, base.size]))
    with np.errstate(all="ignore"):
        for a, b in blocks:
            upper = count_upper(stack[:, a:b], base[a:b], upper)
        assert upper is not None
        bins = find_bins(upper, np.array(ranks))
        for a, b in blocks:
            lower = count_lower(stack[:, a:b], base[a:b], lower, bins)
    assert lower is not None
    return find_magnitudes(lower, bins)


def by_sorting(row: Float64, ranks: list[int]) -> list[float]:
    """The same by a sort of the truncated numbers, NaN the largest."""
    bits = np.abs(row).view(np.int64) & ~np.int64((1 << 29) - 1)
    ordered = np.sort(bits.view(np.float64))[::-1]  # NaN first
    return [float(np.inf if np.isnan(x) else x) for x in ordered[np.array(ranks) - 1]]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-310, 1e300])
def test_magnitudes_equal_those_of_a_sort(
    scale: float, rng: np.random.Generator
) -> None:
    stack = rng.normal(size=(3, 2000)) * scale
    stack[1] = np.where(rng.random(2000) < 0.7, 0, stack[1])  # a sparse member
    stack[2, :100] = rng.choice(SPECIAL, 100)
    ranks = [[1, 7, 600], [400, 1999, 2000], [3, 50, 1200]]
    found = magnitudes_at(stack, np.zeros(2000), ranks, [0, 1, 700])
    for row, member_ranks, magnitudes in zip(stack, ranks, found, strict=True):
        assert magnitudes.tolist() == by_sorting(row, member_ranks)


def test_magnitudes_of_float32_are_exact(rng: np.random.Generator) -> None:
    deltas = rng.normal(size=(1, 999)).astype(np.float32).astype(np.float64)
    (found,) = magnitudes_at(deltas, np.zeros(999), [[1, 500, 999]], [0])
    assert found.tolist() == np.sort(np.abs(deltas[0]))[[-1, -500, 0]].tolist()


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_members_of_any_format_are_counted_as_in_float64(
    dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    base, *members = round_to_dtype(rng.normal(size=(5, 1000)), dtype)
    stack, ranks = np.array(members), [[1, 300]] * 4
    stack[0, :3] = np.nan
    wide, origin = stack.astype(np.float64), base.astype(np.float64)
    found = magnitudes_at(stack, base, ranks, [0, 600])
    assert found.tolist() == magnitudes_at(wide, origin, ranks, [0]).tolist()


def test_magnitudes_are_those_of_differences_from_the_base() -> None:
    stack, base = np.array([[5.0, 1.0, 2.0, -7.0]]), np.array([4.0, 3.0, 2.0, -3.0])
    found = magnitudes_at(stack, base, [[1, 2, 3, 4]], [0])
    assert found.tolist() == [[4, 2, 1, 0]]


def test_blocks_are_added_in_place(rng: np.random.Generator) -> None:
    stack, base = rng.normal(size=(2, 100)), np.zeros(100)
    total = count_upper(stack, base, None)
    assert count_upper(stack, base, total) is total
    assert total.sum(axis=1).tolist() == [200, 200]
    bins = find_bins(total, np.array([[10], [20]]))
    lower = count_lower(stack, base, None, bins)
    assert count_lower(stack, base, lower, bins) is lower


def test_nothing_has_no_magnitudes() -> None:
    empty, base = np.zeros((2, 0)), np.zeros(0)
    found = magnitudes_at(empty, base, [[0], [0]], [0])
    assert found.shape == (2, 1)
    assert deltas_between(empty, base, found[:, 0], found[:, 0]).shape == (2, 0)


def test_deltas_outside_of_the_interval_are_zero() -> None:
    stack = np.array([[1.0, -2.0, 3.0, -4.0, np.nan, np.inf]] * 3)
    low, high = np.array([2.0, 0.0, np.inf]), np.array([3.0, np.inf, np.inf])
    with np.errstate(all="ignore"):
        deltas = deltas_between(stack, np.zeros(6), low, high)
    expected = [
        [0, -2, 3, 0, np.nan, 0],
        [1, -2, 3, -4, np.nan, np.inf],
        [0, 0, 0, 0, np.nan, np.inf],
    ]
    np.testing.assert_array_equal(deltas, expected)


def test_the_ends_of_the_interval_are_truncated_magnitudes() -> None:
    row = np.array([[1.0, 1 + 2.0**-23, 1 + 2.0**-23 + 2.0**-52, 1 + 2.0**-22]])
    end = np.array([1 + 2.0**-23])
    deltas = deltas_between(row, np.zeros(4), end, end)
    assert (deltas != 0).tolist() == [[False, True, True, False]]


def test_the_rank_in_a_bin_counts_from_its_largest_magnitude() -> None:
    total = np.zeros((1, 1 << 17), np.int64)
    total[0, [3, 5, 9]] = 4, 2, 1
    found = find_bins(total, np.array([[1, 2, 3, 4, 7]]))
    assert isinstance(found, Bins)
    assert found.upper.tolist() == [[9, 5, 5, 3, 3]]
    assert found.ranks.tolist() == [[1, 1, 2, 1, 4]]
