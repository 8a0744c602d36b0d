"""Merges of members as they are stored: those of float64, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels import jit
from ensembles.kernels.task_vectors.active_deltas import count_active, merge_active
from ensembles.kernels.task_vectors.random_merge import Masks, merge_randomly
from ensembles.kernels.task_vectors.selected_deltas import (
    merge_selected,
    selected_squares,
    variances,
)
from ensembles.kernels.task_vectors.stored_members import SPAN
from ensembles.kernels.task_vectors.trimmed_merge import merge_trimmed
from tests.kernels.test_kernels import PLAIN, numbers, same

WEIGHTS = np.array([0.3, 0.0, -1.2, 2.0])
INTERVAL = np.array([0.0, 0.1, 0.3, 0.2]), np.array([np.inf, 1.0, 0.7, np.inf])
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-41, 6e-8, 65504.0, 3e38]
ROW = 7  # elements of a row with ranks
Merge = Callable[[Array, Array], Array]


def masks(**changes: Any) -> Masks:
    lowest, highest = np.array([0.1, 0.5, 1.0, 0.3]), np.array([0.4, 0.5, 1.0, 0.9])
    drawn = Masks(
        members=np.arange(4, dtype=np.uint32),
        lowest=lowest,
        highest=highest,
        factors=np.array([1.0, 2.0, 0.3, 1.0]),
        is_ranked=False,
        is_rescaled=True,
        row_size=ROW,
        seed=3,
        name="w",
        start=21,
    )
    return drawn._replace(**changes)


SUM: Any = {"sign": None, "scale": 0.7}
ELECTION: Any = {"sign": "count", "zero_sum": 1, "normalize": "count", "scale": 0.7}
MERGES: dict[str, Merge] = {
    "trimmed sum": lambda s, b: merge_trimmed(
        s, WEIGHTS, b, INTERVAL, divisor=0.3, **SUM
    ),
    "trimmed election": lambda s, b: merge_trimmed(s, WEIGHTS, b, INTERVAL, **ELECTION),
    "random sum": lambda s, b: merge_randomly(s, WEIGHTS, b, masks(), **SUM),
    "random election": lambda s, b: merge_randomly(
        s, WEIGHTS, b, masks(is_rescaled=False), **ELECTION
    ),
    "ranked sum": lambda s, b: merge_randomly(
        s, WEIGHTS, b, masks(is_ranked=True), **SUM
    ),
    "ranked election": lambda s, b: merge_randomly(
        s, WEIGHTS, b, masks(is_ranked=True, is_rescaled=False), **ELECTION
    ),
    "active": lambda s, b: merge_active(s, b, WEIGHTS, 1.1 * WEIGHTS, 0.3),
    "selected": lambda s, b: merge_selected(s, b, np.abs(WEIGHTS), 0.2, normalize=True),
    "majority": lambda s, b: merge_selected(
        s, b, np.abs(WEIGHTS), 0.0, normalize=False
    ),
}


@pytest.fixture(params=["loops", "numpy"])
def implementation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    worthwhile = -1 if request.param == "loops" else 1 << 62
    monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)


def members_and_base(
    dtype: np.dtype[Any], size: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Members, some of whose entries are special or equal the base."""
    size = min(size, 5 * ROW) if PLAIN else size
    stack = numbers(dtype, rng, (5, size))
    stack[1:] = np.where(rng.random((4, size)) < 0.3, stack[0], stack[1:])
    if size:
        special = round_to_dtype(np.array(SPECIAL), dtype)
        for row in stack:
            row[rng.integers(0, size, 30)] = rng.choice(special, 30)
    return stack[1:], stack[0]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
@pytest.mark.parametrize("size", [ROW, 2 * SPAN // ROW * ROW + 42])
def test_merges_of_each_format_are_those_of_float64_rounded_once(
    dtype: np.dtype[Any], merge: Merge, size: int, rng: np.random.Generator
) -> None:
    stack, base = members_and_base(dtype, size, rng)
    with np.errstate(all="ignore"):
        wide = merge(stack.astype(np.float64), base.astype(np.float64))
        merged = merge(stack, base)
    assert merged.dtype == dtype
    assert merged.tobytes() == round_to_dtype(wide, dtype).tobytes()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_loops_equal_numpy_bit_for_bit(
    dtype: np.dtype[Any],
    merge: Merge,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack, base = members_and_base(dtype, 3 * SPAN // ROW * ROW, rng)
    results = []
    for worthwhile in (-1, 1 << 62):
        monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
        with np.errstate(all="ignore"):
            results.append(merge(stack, base).tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [0, 1, SPAN, 70_000])
def test_variances_and_their_squares_are_those_of_float64(
    dtype: np.dtype[Any],
    size: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack, base = members_and_base(dtype, size, rng)
    wide, origin = stack.astype(np.float64), base.astype(np.float64)
    results = []
    for worthwhile in (-1, 1 << 62):
        monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
        with np.errstate(all="ignore"):
            for members, ancestor in ((stack, base), (wide, origin)):
                spreads: Float64 = variances(members)
                squares = [selected_squares(members, ancestor, t) for t in (0.0, 0.2)]
                results.append((spreads, *squares))
    for result in results[1:]:
        for found, expected in zip(result, results[0], strict=True):
            same(found, expected)


def test_active_entries_are_counted_by_loops_as_by_numpy(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, base = members_and_base(np.dtype(np.float64), 3_000, rng)
    results = []
    for worthwhile in (-1, 1 << 62):
        monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
        with np.errstate(all="ignore"):
            results.append(count_active(stack, base, 0.1).tolist())
    assert results[0] == results[1]


@pytest.mark.usefixtures("implementation")
def test_a_change_of_one_member_is_kept_and_changes_of_several_are_averaged() -> None:
    base = np.array([1.0, 1.0, 1.0, 1.0])
    stack = np.array([[3.0, 3.0, 1.05, 1.0], [1.0, 2.0, 1.0, np.nan]])
    merged = merge_active(stack, base, np.array([1.0, 2.0]), np.array([3.0, 4.0]), 0.1)
    np.testing.assert_array_equal(merged, [7, 3, 1, np.nan])
    assert count_active(stack, base, 0.1).tolist() == [[1, 1], [1, 1]]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("is_ranked", [True, False])
def test_any_division_of_a_random_merge_gives_the_same_bytes(
    is_ranked: bool, rng: np.random.Generator
) -> None:
    stack, base = members_and_base(np.dtype(np.float32), 200 * ROW, rng)
    drawn = masks(is_ranked=is_ranked)
    with np.errstate(all="ignore"):
        whole = merge_randomly(stack, WEIGHTS, base, drawn)
        parts = []
        for part in np.split(np.arange(len(base)), [ROW, 3 * ROW, 150 * ROW]):
            place = drawn._replace(start=drawn.start + int(part[0] if len(part) else 0))
            parts.append(merge_randomly(stack[:, part], WEIGHTS, base[part], place))
    assert np.concatenate(parts).tobytes() == whole.tobytes()
