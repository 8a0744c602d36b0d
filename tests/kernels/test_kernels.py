"""Compiled loops against the NumPy reference beside each, bit for bit.

Narrow formats go through every bit pattern, wide ones through random patterns: numbers
of any size, subnormal ones, both zeros, infinities and NaN. The bits of a NaN are not
compared: where two NaN are added, they depend on the order of the operands. With
``NUMBA_DISABLE_JIT=1`` the same loops run as plain Python, on fewer numbers.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensembles._typing import Array
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels import gram as gram_module
from ensembles.kernels import jit
from ensembles.kernels.casting import narrow, widen
from ensembles.kernels.gram import (
    BLOCK,
    MOST,
    SUMS,
    gram,
    gram_reference,
    squared_distances,
    squared_distances_reference,
)
from ensembles.kernels.jit import LANE, PIECE, compiled
from ensembles.kernels.loop_cache import LoopFiles
from ensembles.kernels.mean import has_nonfinite, mean, mean_reference
from ensembles.kernels.sorting import (
    order_statistics,
    order_statistics_reference,
    weighted_median,
)
from ensembles.rules import RULES

ROOT = Path(__file__).parents[2]
PLAIN = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # set when loaded
SOME = 300 if PLAIN else 100_000
Dtype = np.dtype[Any]
DTYPES = list(FLOATS)
BELOW_FLOAT64 = [dtype for dtype in DTYPES if dtype.itemsize < 8]
WEIGHTS = [
    *([1.0, 1.0, 1.0], [0.25, 0.25, 0.5], [0.3, 1.7, -0.9], [0.0, 1.0, 2.5]),
    *([-1.0, -1.0, -2.0], [1e-3, 1e5, 3.0], [1e-310, 2e-310, 0.0]),
]


def patterns(dtype: Dtype, rng: np.random.Generator, n_members: int = 3) -> Array:
    """Members of all bit patterns in different orders, or of random ones."""
    form = FLOATS[dtype]
    if dtype.itemsize <= 2 and not PLAIN:
        every = np.arange(2 ** (8 * dtype.itemsize)).astype(form.bits)
        bits = np.array(
            [every, *(rng.permutation(every) for _ in range(n_members - 1))]
        )
    else:
        most = np.iinfo(form.bits).max
        shape = (n_members, SOME)
        bits = rng.integers(0, most, shape, dtype=form.bits, endpoint=True)
        # A narrow exponent, so that members are of one size, and special numbers.
        near = (bits & ~np.array(form.special, form.bits)) | np.array(1, dtype).view(
            form.bits
        )
        bits[:, : SOME // 2] = near[:, : SOME // 2]
        edges = [0, 1, form.special - 1, form.special, most, most // 2 + 1]
        bits[0, : len(edges)] = np.array(edges, np.uint64).astype(form.bits)
    return np.asarray(bits.view(dtype))


def numbers(dtype: Dtype, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return round_to_dtype(rng.normal(size=shape), dtype)


def bits_of(array: Array) -> list[int]:
    """Bits of each number, and -1 for any NaN."""
    bits = array.view(FLOATS[array.dtype].bits).astype(object)
    with np.errstate(invalid="ignore"):
        bits[np.isnan(array)] = -1
    found: list[int] = bits.tolist()
    return found


def same(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert bits_of(found) == bits_of(expected)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> Dtype:
    found: Dtype = request.param
    return found


@pytest.fixture(autouse=True)
def loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run loops, however small the arrays."""
    monkeypatch.setattr(jit, "WORTHWHILE", -1)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("narrow", BELOW_FLOAT64, ids=str)
def test_means_equal_their_numpy_reference(
    narrow: Dtype, weights: list[float], rng: np.random.Generator
) -> None:
    stack, given_weights = patterns(narrow, rng), np.array(weights)
    expected = mean_reference(stack, given_weights, math.fsum(weights))
    same(mean(stack, given_weights), expected)


@pytest.mark.parametrize("size", [0, 1, LANE - 1, LANE, LANE + 1, 3 * LANE + 7])
def test_means_of_any_size_equal_their_numpy_reference(
    dtype: Dtype, size: int, rng: np.random.Generator
) -> None:
    n_members = 2 if PLAIN else 5
    stack, weights = numbers(dtype, rng, (n_members, size)), np.ones(n_members)
    if dtype == np.float64:
        exact = [math.fsum(column) / n_members for column in stack.T.tolist()]
        np.testing.assert_array_max_ulp(mean(stack, weights), np.array(exact), 1)
    else:
        same(mean(stack, weights), mean_reference(stack, weights, n_members))


@pytest.mark.parametrize("narrow", BELOW_FLOAT64, ids=str)
@pytest.mark.parametrize("total", [1.0, -3.0, 0.1, 2.0**-1022, 2.0**-1074, 2.0**1023])
def test_sums_are_divided_by_any_total_as_numpy_does(
    narrow: Dtype, total: float, rng: np.random.Generator
) -> None:
    stack, weights = patterns(narrow, rng, 2)[:, :2000], np.array([0.5, 0.25])
    same(mean(stack, weights, total), mean_reference(stack, weights, total))


def within_an_ulp(found: float, exact: Fraction) -> bool:
    """Whether a float64 is the nearest to a fraction, or beside the nearest."""
    try:
        nearest = float(exact)
    except OverflowError:
        nearest = math.inf if exact > 0 else -math.inf
    beside = math.nextafter(nearest, -math.inf), math.nextafter(nearest, math.inf)
    return found in (nearest, *beside)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
TINY = st.floats(-1e-307, 1e-307)
HUGE = st.floats(1e307, allow_nan=False, allow_infinity=False)


@given(st.lists(st.one_of(FINITE, TINY, HUGE), min_size=1, max_size=6))
@example([1e16, 1.0, -1e16])
@example([1e308, 1e308, 1e308])
@example([1.7976931348623157e308, -1.7976931348623157e308, 5e-324])
@example([1e300, 1.0, -1e300, 1e-300])
@example([5e-324, 0.0])
@example([0.1] * 6)
@example([-0.0, -0.0])
def test_equal_means_of_float64_are_within_an_ulp_of_the_exact_ones(
    members: list[float],
) -> None:
    stack = np.array(members)[:, None]
    (found,) = mean(stack, np.ones(len(members))).tolist()
    exact = sum(map(Fraction, members), Fraction()) / len(members)
    assert within_an_ulp(found, exact)
    try:
        summed = math.fsum(members) / len(members)
    except OverflowError:
        return
    assert within_an_ulp(found, Fraction(summed))


WEIGHT = st.floats(1e-3, 1e3)
NUMBER = st.one_of(st.floats(), TINY, HUGE, st.sampled_from([0.0, -0.0, 1.0, 2.0]))


@given(
    st.lists(st.tuples(WEIGHT, st.one_of(FINITE, TINY, HUGE)), min_size=1, max_size=6)
)
@example([(0.1, 1e16), (0.2, 1.0), (0.1, -1e16)])
@example([(0.3, 1e308), (0.7, 1.7e308)])
@example([(1.0, 5e-324), (3.0, 5e-324)])
def test_weighted_means_of_float64_are_near_the_exact_ones(
    pairs: list[tuple[float, float]],
) -> None:
    weights, members = (list(column) for column in zip(*pairs, strict=True))
    (found,) = mean(np.array(members)[:, None], np.array(weights)).tolist()
    total = math.fsum(weights)
    exact = sum((Fraction(w) * Fraction(x) for w, x in pairs), Fraction())
    assert within_an_ulp(found, exact / Fraction(total))


def test_deep_cancellation_leaves_what_is_left() -> None:
    stack = np.array([[1e16, 1e200], [1.0, 1.0], [-1e16, -1e200]])
    assert mean(stack, np.ones(3), 1.0).tolist() == [1.0, 1.0]


def test_sums_of_float64_are_rounded_once_as_fsum_does(
    rng: np.random.Generator,
) -> None:
    # Just beside the middle of two numbers, where only the last member tells the side.
    first = rng.uniform(1, 2, 200)
    half = np.spacing(first) / 2 * rng.choice([-1, 1], 200)
    last = half * 2.0 ** -rng.uniform(55, 120, 200) * rng.choice([-1, 0, 1], 200)
    stack = np.array([first, half, last])
    expected = [math.fsum(column) for column in stack.T.tolist()]
    assert mean(stack, np.ones(3), 1.0).tolist() == expected


def test_float64_that_is_no_number_stays_none() -> None:
    infinite = np.array([[np.inf, np.inf, 1.0, -np.inf], [1.0, -np.inf, np.nan, 1.0]])
    found = mean(infinite, np.ones(2))
    expected = np.array([np.inf, np.nan, np.nan, -np.inf])
    assert np.array_equal(found, expected, equal_nan=True)


def test_a_mean_too_large_for_float64_is_infinite() -> None:
    largest = np.finfo(np.float64).max
    stack = np.array([[largest, -largest], [-largest, largest]])
    assert mean(stack, np.array([2.0, -1.0])).tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(("first", "last"), [(0, 0), (2, 2), (1, 1), (0, 2)])
def test_ranks_equal_their_numpy_reference(
    dtype: Dtype, first: int, last: int, rng: np.random.Generator
) -> None:
    stack = patterns(dtype, rng)
    same(
        order_statistics(stack, first, last),
        order_statistics_reference(stack, first, last),
    )


@pytest.mark.parametrize("n_members", range(1, 10))
def test_ranks_of_any_number_of_members_equal_their_numpy_reference(
    n_members: int, rng: np.random.Generator
) -> None:
    stack = rng.integers(-3, 3, (n_members, 300)).astype(np.float32)
    for first in range(n_members):
        for last in range(first, n_members):
            same(
                order_statistics(stack, first, last),
                order_statistics_reference(stack, first, last),
            )


@pytest.mark.parametrize("size", [0, 1, LANE - 1, LANE, LANE + 1])
def test_ranks_of_any_size_equal_their_numpy_reference(
    dtype: Dtype, size: int, rng: np.random.Generator
) -> None:
    stack = numbers(dtype, rng, (4, size))
    same(order_statistics(stack, 1, 2), order_statistics_reference(stack, 1, 2))


def test_negative_zero_ranks_below_zero() -> None:
    stack = np.array([[0.0], [-0.0]], np.float32)
    assert np.signbit(order_statistics(stack, 0, 1)).tolist() == [[True], [False]]


def halves(values: list[float], weights: list[int]) -> float:
    """Weighted median by writing each value as often as it counts."""
    written = sorted(v for v, w in zip(values, weights, strict=True) for _ in range(w))
    middle = len(written) // 2
    if len(written) % 2:
        return written[middle]
    return (written[middle - 1] + written[middle]) / 2


@pytest.mark.parametrize("n_members", [1, 2, 3, 6])
def test_weighted_medians_equal_the_median_of_repeated_members(
    n_members: int, rng: np.random.Generator
) -> None:
    stack = rng.integers(-4, 4, (n_members, 200)).astype(np.float64)
    for _ in range(5):
        counts = rng.integers(1, 5, n_members)
        out = np.empty(200)
        weighted_median(stack, counts.astype(np.float64), out)
        expected = [halves(column, counts.tolist()) for column in stack.T.tolist()]
        assert out.tolist() == expected
        weighted_median(stack, np.asarray(counts * 0.1, np.float64), out)
        assert out.tolist() == expected


def test_weighted_medians_of_nan_are_nan() -> None:
    stack = np.array([[1.0, np.inf], [np.nan, -np.inf], [3.0, 0.0]])
    out = np.empty(2)
    weighted_median(stack, np.array([1.0, 1.0, 3.0]), out)
    assert np.array_equal(out, [np.nan, 0.0], equal_nan=True)


def test_products_equal_their_numpy_reference(
    dtype: Dtype, rng: np.random.Generator
) -> None:
    for size in (0, 1, SUMS - 1, SUMS, SUMS + 1, LANE + 1):
        stack = numbers(dtype, rng, (3, size))
        same(gram(stack), gram_reference(stack))


def test_products_of_any_numbers_equal_their_numpy_reference(
    dtype: Dtype, rng: np.random.Generator
) -> None:
    stack = patterns(dtype, rng)
    with np.errstate(invalid="ignore"):
        stack = stack[:, ~np.isnan(stack).any(0)]
    with np.errstate(over="ignore", invalid="ignore"):
        same(gram(stack), gram_reference(stack))


def test_products_are_added_block_by_block(
    dtype: Dtype, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = BLOCK
    if PLAIN:
        block = 4 * SUMS
        monkeypatch.setattr(gram_module, "BLOCK", block)
    stack = numbers(dtype, rng, (2, 2 * block + 5))
    whole = gram(stack)
    assert whole.shape == (3, 2, 2)
    same(whole, gram_reference(stack))
    parts = [gram(stack[:, :block]), gram(stack[:, block:])]
    same(whole, np.concatenate(parts))
    expected = stack.astype(np.float64) @ stack.astype(np.float64).T
    np.testing.assert_allclose(whole.sum(0), expected, rtol=1e-12)


def test_members_are_widened_exactly(dtype: Dtype, rng: np.random.Generator) -> None:
    stack = patterns(dtype, rng)
    with np.errstate(invalid="ignore"):
        same(widen(stack), stack.astype(np.float64))


def test_special_numbers_are_seen(dtype: Dtype, rng: np.random.Generator) -> None:
    ordinary = np.concatenate([numbers(dtype, rng, (LANE + 3,)), np.zeros(2, dtype)])
    largest = np.array(FLOATS[dtype].special - 1, FLOATS[dtype].bits).view(dtype)
    ordinary[0], ordinary[1] = largest, -largest
    assert not has_nonfinite(ordinary)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        special = ordinary.copy()
        special[LANE + 1] = round_to_dtype(np.array(value), dtype)
        assert has_nonfinite(special)
    assert not has_nonfinite(ordinary[:0])


def test_rounding_equals_its_numpy_reference(
    dtype: Dtype, rng: np.random.Generator
) -> None:
    values = patterns(np.dtype(np.float64), rng).reshape(-1)
    close = rng.normal(size=SOME) * 2.0 ** rng.integers(-30, 20, SOME)
    for some in (values, close, *(close[:n] for n in (0, 1, LANE - 1, LANE, LANE + 1))):
        same(narrow(some, dtype), round_to_dtype(some, dtype))


# NumPy, which computes small jobs, takes arrays in pieces.
def without_loops(function: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "WORTHWHILE", math.inf)
        return function()


@pytest.mark.skipif(PLAIN, reason="loops in plain Python take too long")
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_numpy_and_loops_give_the_same_bits(
    dtype: Dtype, size: int, rng: np.random.Generator
) -> None:
    stack = patterns(dtype, rng, 4)
    stack = np.concatenate([stack] * (1 + size // stack.shape[1]), axis=1)[:, :size]
    weights, values = np.array([0.3, 1.7, 2.5, 0.1]), rng.normal(size=size)
    ordinary = numbers(np.dtype(np.float64), rng, (4, size)) // 0.5
    functions: list[Callable[[], Any]] = [
        lambda: mean(stack, weights),
        lambda: mean(stack, weights - 1, 1.0),
        lambda: order_statistics(stack, 1, 2),
        lambda: gram(stack),
        lambda: squared_distances(stack),
        lambda: widen(stack),
        lambda: narrow(values, dtype),
        lambda: np.array([has_nonfinite(row) for row in stack], np.float64),
        lambda: median_of(ordinary, weights),
    ]
    for function in functions:
        same(without_loops(function), function())


def median_of(stack: Array, weights: Array) -> Array:
    out = np.empty(stack.shape[1])
    weighted_median(stack, weights, out)
    return out


def test_squared_distances_equal_their_numpy_reference(
    dtype: Dtype, rng: np.random.Generator
) -> None:
    for size in (0, 1, SUMS + 1, LANE + 1):
        stack = numbers(dtype, rng, (3, size))
        wide = stack.astype(np.float64)
        found = squared_distances(stack)
        assert found.shape == (min(size, 1), 3, 3)
        if size:
            same(found[0], squared_distances_reference(wide))
            exact = [[math.fsum((a - b) ** 2) for a in wide] for b in wide]
            np.testing.assert_allclose(found[0], exact, rtol=1e-14)


def test_squared_distances_are_added_block_by_block(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(2, BLOCK + 5)).astype(np.float32)
    parts = [squared_distances(stack[:, :BLOCK]), squared_distances(stack[:, BLOCK:])]
    same(squared_distances(stack), np.concatenate(parts))


def test_squared_distances_out_of_range_are_not_zero_or_infinite() -> None:
    assert squared_distances(np.array([[0.0], [1e-200]]))[0, 0, 1] == 5e-324
    assert squared_distances(np.array([[-1e308], [1e308]]))[0, 0, 1] == MOST
    assert squared_distances(np.array([[0.0], [np.inf]]))[0, 0, 1] == np.inf
    assert squared_distances(np.array([[1e-200], [1e-200]]))[0, 0, 1] == 0


@pytest.mark.skipif(PLAIN, reason="loops in plain Python take too long")
@pytest.mark.parametrize("weights", [None, [0.3, 1.7]], ids=str)
@pytest.mark.parametrize(
    "name", sorted(n for n, r in RULES.items() if not (r.needs_base or r.needs_moments))
)
def test_every_rule_gives_the_same_bits_with_numpy_and_loops(
    name: str, weights: list[float] | None, dtype: Dtype, rng: np.random.Generator
) -> None:
    rule = RULES[name]
    if weights is not None and not rule.weighted:
        pytest.skip("its weights are equal")
    ordinary = numbers(dtype, rng, (2, BLOCK + PIECE + 3))
    stacks = [ordinary, patterns(dtype, rng, 2)] if rule.is_elementwise else [ordinary]
    for stack in stacks:
        if rule.domain == "non-negative":
            stack = np.abs(stack)
        found = without_loops(partial(rule, stack, weights))
        same(found, rule(stack, weights))


@given(
    st.lists(st.lists(NUMBER, min_size=3, max_size=3), min_size=1, max_size=8),
    st.lists(WEIGHT, min_size=3, max_size=3),
)
def test_numpy_and_loops_agree_on_any_float64(
    columns: list[list[float]], weights: list[float]
) -> None:
    stack = np.ascontiguousarray(np.array(columns).T)
    given_weights = np.array(weights)
    for function in (mean, median_of):
        expected = function(stack, given_weights)
        found = without_loops(partial(function, stack, given_weights))
        same(found, expected)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other rules for two NaN")
def test_a_nan_of_a_member_keeps_its_bits(
    dtype: Dtype, rng: np.random.Generator
) -> None:
    form = FLOATS[dtype]
    stack = numbers(dtype, rng, (3, 2 * LANE))
    bits = stack[1].view(form.bits)
    bits |= np.array(2 * form.special - 1 - form.special // 2, form.bits)
    bits |= rng.integers(0, np.iinfo(form.bits).max, bits.size, dtype=form.bits)
    weights = np.array([0.5, 2.0, 1.0])
    for function in (lambda: mean(stack, weights), lambda: widen(stack)):
        expected = np.ascontiguousarray(function())
        assert without_loops(function).tobytes() == expected.tobytes()
        assert np.isnan(expected).any()


def test_loops_run_once_numpy_has_done_as_much_as_loading_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jit, "WORTHWHILE", 10 * LANE)
    monkeypatch.setattr(jit, "_n_elements", 0)
    assert [jit.use_loops(4 * LANE) for _ in range(3)] == [False, False, True]
    assert jit.use_loops(0)


def test_a_large_job_prepares_loops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr("importlib.import_module", imported.append)
    monkeypatch.setattr(jit, "WORTHWHILE", 10 * LANE)
    monkeypatch.setattr(jit, "_n_elements", 0)
    jit.prepare_loops(10 * LANE)
    assert not jit.use_loops(0)
    for _ in range(2):
        jit.prepare_loops(10 * LANE)
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(10)
    assert imported == ["numba.np.arraymath", "ensembles.kernels.loop_cache"]


def test_numba_is_imported_without_modules_that_the_command_hides() -> None:
    code = textwrap.dedent(
        """
        import sys
        from ensembles.kernels import jit

        jit.HIDDEN[:] = ["scipy.linalg", "coverage"]
        jit._import_loop_cache()
        assert "numba" in sys.modules
        assert "scipy.linalg" not in sys.modules
        import scipy.linalg  # is found again
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert jit.use_loops(0)


# Where compiled loops are kept, and that it does not matter.
AVERAGE = """
import json, sys
from ensembles.checkpoints import average
import numpy as np
import ensembles.kernels.mean as module
from ensembles.kernels import jit
jit.WORTHWHILE = -1
assert module.__file__.startswith(sys.argv[1]), module.__file__
members = [{"w": np.full(3, value, np.float32)} for value in (1, 2)]
found = average(members)["w"].tolist()
print(json.dumps([found, type(getattr(module._add, "_cache", None)).__name__]))
"""


@pytest.fixture
def homeless(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the package with no place to keep anything, whoever asks.

    Files stand where folders would have to be made: not even root gets past that, as
    it gets past permissions.
    """
    package = tmp_path / "place" / "ensembles"
    shutil.copytree(
        ROOT / "ensembles", package, ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("no folder")
    (tmp_path / "home").write_text("no folder")
    home = str(tmp_path / "home")
    known = {"PYTHONPATH": str(package.parent), "HOME": home, "XDG_CACHE_HOME": home}
    return package, known


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
@pytest.mark.parametrize("asked", ["", "file", "missing"])
def test_without_a_place_to_keep_them_loops_are_compiled_in_silence(
    asked: str,
    homeless: tuple[Path, dict[str, str]],
    interpreter: Callable[..., str],
    tmp_path: Path,
) -> None:
    package, known = homeless
    asked_for = {
        "": "",
        "file": str(tmp_path / "home"),
        "missing": str(tmp_path / "home" / "below"),
    }
    known["NUMBA_CACHE_DIR"] = asked_for[asked]
    found, cache = json.loads(interpreter(AVERAGE, package, **known))
    assert found == [1.5, 1.5, 1.5]
    assert cache == "NoCache"


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
def test_a_loop_that_cannot_be_kept_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_a_place(function: Any) -> Any:
        raise RuntimeError("no locator available")

    monkeypatch.setattr("ensembles.kernels.loop_cache.LoopCache", without_a_place)
    assert compiled(lambda x: x + 1)(2) == 3


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
def test_a_disk_that_is_full_is_as_good_as_no_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("ensembles.kernels.loop_cache.LoopFiles.save", full)
    assert compiled(_double)(2) == 4


def _double(x: float) -> float:
    return 2 * x


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
@pytest.mark.parametrize("damage", ["cut", "flipped", "folder"])
def test_a_broken_cache_is_mended(
    damage: str,
    homeless: tuple[Path, dict[str, str]],
    interpreter: Callable[..., str],
    tmp_path: Path,
) -> None:
    package, known = homeless
    known["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    interpreter(AVERAGE, package, **known)
    paths = list((tmp_path / "cache").rglob("*.nbc"))
    assert len(paths) > 1
    for path in paths:
        content = bytearray(path.read_bytes())
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage == "flipped":
            content[len(content) // 2] ^= 1  # in the machine code
            path.write_bytes(content)
        else:
            path.write_bytes(content[: len(content) // 2])
    found, _ = json.loads(interpreter(AVERAGE, package, **known))
    assert found == [1.5, 1.5, 1.5]
    if damage != "folder":
        assert all(p.stat().st_size > 1000 for p in paths)


def test_no_byte_of_kept_code_can_be_changed_unseen(tmp_path: Path) -> None:
    files = LoopFiles(tmp_path / "loop", b"stamp")
    files.save(("float32", 3), {"code": b"machine"})
    assert files.load(("float32", 3)) == {"code": b"machine"}
    assert files.load(("float64", 3)) is None
    assert LoopFiles(tmp_path / "loop", b"edited").load(("float32", 3)) is None
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :]
        )
        assert files.load(("float32", 3)) is None
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert files.load(("float32", 3)) is None


def test_kept_code_of_one_loop_is_removed_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        LoopFiles(tmp_path / name, b"").save("key", name)
    LoopFiles(tmp_path / "one", b"").flush()
    assert LoopFiles(tmp_path / "one", b"").load("key") is None
    assert LoopFiles(tmp_path / "two", b"").load("key") == "two"


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
def test_with_a_place_to_keep_them_loops_are_kept(
    homeless: tuple[Path, dict[str, str]],
    interpreter: Callable[..., str],
    tmp_path: Path,
) -> None:
    package, known = homeless
    known["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    found, cache = json.loads(interpreter(AVERAGE, package, **known))
    assert (found, cache) == ([1.5, 1.5, 1.5], "LoopCache")
    assert list((tmp_path / "cache").rglob("*.nbc"))


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
def test_processes_that_fill_one_cache_at_a_time_agree(
    homeless: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """As in numba/numba#4807, where a cache that several fill crashes a reader."""
    package, known = homeless
    known["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    command = [sys.executable, "-P", "-c", AVERAGE, str(package)]
    for _ in range(2):
        runs = [
            subprocess.Popen(
                command, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(4)
        ]
        for run in runs:
            out, words = run.communicate(timeout=300)
            assert (run.returncode, words) == (0, b"")
            assert json.loads(out) == [[1.5, 1.5, 1.5], "LoopCache"]
    assert not list((tmp_path / "cache").rglob("*.tmp.*"))


# The mean of bfloat16 holds lines of kernels/mean_bfloat16.py and kernels/casting.py.
BFLOAT16 = """
import json, sys
import ml_dtypes, numpy as np
from ensembles.kernels import compiling, jit
from ensembles.kernels.mean import mean
jit.WORTHWHILE = -1
compiling.listen(lambda is_kept: print(json.dumps(["compiled", is_kept])))
stack, weights = json.loads(sys.argv[1])
found = mean(np.array(stack).astype(ml_dtypes.bfloat16), np.array(weights))
print(json.dumps(found.astype(float).tolist()))
"""


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
@pytest.mark.parametrize(
    ("module", "old", "new", "job", "means"),
    [
        # A line of a loop that is inlined into a loop of another module.
        (
            *("mean_bfloat16.py", "sums[j] / count", "sums[j] * count"),
            *([[[1.0], [3.0]], [1.0, 1.0]], [2.0, 8.0]),
        ),
        # A loop of another module that is called.
        (
            *("casting.py", "- shift) * 2.0**133)", "- shift) * 2.0**134)"),
            *([[[3e-40], [0.0]], [1.0, 2.0]], [2.0**-133, 2.0**-132]),
        ),
    ],
    ids=["inlined", "called"],
)
def test_an_edit_is_seen_by_the_loops_of_other_modules_that_hold_it(
    module: str,
    old: str,
    new: str,
    job: list[Any],
    means: list[float],
    homeless: tuple[Path, dict[str, str]],
    interpreter: Callable[..., str],
    tmp_path: Path,
) -> None:
    package, known = homeless
    known["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    path = package / "kernels" / module
    source = path.read_text()
    assert source.count(old) == 1

    def run() -> list[Any]:
        lines = interpreter(BFLOAT16, json.dumps(job), **known).splitlines()
        return [json.loads(line) for line in lines]

    compiled_anew = ["compiled", True]
    assert run() == [compiled_anew, [means[0]]]
    assert run() == [[means[0]]]
    path.write_text(source.replace(old, new))
    assert run() == [compiled_anew, [means[1]]]
    path.write_text(source)
    os.utime(path, (0, 0))  # as old as a file that another branch brings back
    assert run() == [compiled_anew, [means[0]]]
    assert len(list((tmp_path / "cache").rglob("*.nbc"))) < 10  # old ones are replaced


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
def test_an_edit_between_import_and_call_leaves_no_old_code_in_the_cache(
    homeless: tuple[Path, dict[str, str]],
    interpreter: Callable[..., str],
    tmp_path: Path,
) -> None:
    """As when a file is edited while its tests run."""
    package, known = homeless
    known["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    path = package / "kernels" / "mean_bfloat16.py"
    edit = f"""
from pathlib import Path
path = Path({str(path)!r})
path.write_text(path.read_text().replace("sums[j] / count", "sums[j] * count"))
"""
    first = BFLOAT16.replace("compiling.listen", f"{edit}\ncompiling.listen")
    job = json.dumps([[[1.0], [3.0]], [1.0, 1.0]])
    for code, means in ((first, [2.0]), (BFLOAT16, [8.0])):
        lines = interpreter(code, job, **known).splitlines()
        assert [json.loads(line) for line in lines] == [["compiled", True], means]


def test_plain_loops_are_as_silent_as_compiled_ones(
    interpreter: Callable[..., str],
) -> None:
    code = (
        "import numpy as np; from ensembles.kernels import jit;"
        "jit.WORTHWHILE = -1; from ensembles.kernels.mean import mean;"
        "print(mean(np.full((2, 1), 3e38, np.float32), np.full(2, 1e300)))"
    )
    assert interpreter(code, NUMBA_DISABLE_JIT="1") == interpreter(code)


def test_bits_tell_numbers_apart() -> None:
    zeros: NDArray[np.float64] = np.array([0.0, -0.0, np.nan, -np.nan])
    assert bits_of(zeros) == [0, 1 << 63, -1, -1]
