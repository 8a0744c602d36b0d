"""The geometric median, by its definition and by the conditions of a minimum."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average
from ensembles.dtypes import round_to_dtype
from ensembles.kernels.gram import BLOCK
from ensembles.rules import geometric_median, median

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def distances(point: Array, stack: Array) -> Float64:
    """Distance of a point from each member, with exact sums."""
    rows = (stack - point).reshape(len(stack), -1).astype(np.float64)
    return np.array([math.sqrt(math.fsum(row * row)) for row in rows])


def by_weiszfeld(stack: Float64, weights: Float64) -> Float64:
    """Weiszfeld's iteration on the members themselves, from their mean."""
    point = np.average(stack, axis=0, weights=weights)
    for _ in range(20_000):
        forces = weights / distances(point, stack)
        moved = forces @ stack / forces.sum()
        if np.abs(moved - point).max() <= 1e-15 * np.abs(point).max():
            break
        point = moved
    return np.asarray(point)


@pytest.mark.parametrize("n_members", [3, 4, 8])
@pytest.mark.parametrize("offset", [0, 100])
def test_it_is_what_weiszfelds_iteration_converges_to(
    n_members: int, offset: float, rng: np.random.Generator
) -> None:
    stack = rng.normal(size=(n_members, 30)) + offset
    weights = rng.uniform(0.5, 1, n_members)
    found = geometric_median(stack, weights)
    expected = by_weiszfeld(stack, weights)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-14 * (1 + offset))


@given(
    st.integers(2, 7),
    st.integers(1, 4),
    st.integers(0, 2**32),
    st.booleans(),
)
@settings(max_examples=100)
def test_no_point_has_a_smaller_sum_of_distances(
    n_members: int, size: int, seed: int, equal: bool
) -> None:
    rng = np.random.default_rng(seed)
    stack = rng.normal(size=(n_members, size)) * 10.0 ** rng.integers(-3, 4, size)
    stack[rng.integers(n_members)] = stack[0]  # two members may be equal
    weights = np.ones(n_members) if equal else rng.uniform(0.1, 1, n_members)
    point = geometric_median(stack, weights)
    least = weights @ distances(point, stack)
    others = [*stack, np.average(stack, axis=0, weights=weights)]
    for scale in 10.0 ** np.arange(-9, 1):
        others += [point + scale * step for step in rng.normal(size=(3, size))]
        others += [point + scale * (member - point) for member in stack]
    for other in others:
        assert weights @ distances(np.asarray(other), stack) >= least * (1 - 1e-13)


@pytest.mark.parametrize("n_members", [1, 2, 3, 4, 5, 6, 9])
def test_scalars_have_their_median(n_members: int, rng: np.random.Generator) -> None:
    for dtype in (np.float64, np.float32):
        stack = rng.normal(size=(n_members, 1)).astype(dtype)
        np.testing.assert_allclose(
            geometric_median(stack), median(stack), rtol=4 * float(np.finfo(dtype).eps)
        )
    # Equal members count once in the mean of the two that are medians.
    assert geometric_median([[1.0], [1.0], [2.0], [3.0]]).tolist() == [1.5]
    weights = rng.integers(1, 4, n_members)
    repeated = median(np.repeat(stack, weights, axis=0))
    np.testing.assert_allclose(geometric_median(stack, weights), repeated, rtol=1e-6)


def test_two_members_have_their_mean_or_the_heavier_one(
    rng: np.random.Generator,
) -> None:
    stack = rng.normal(size=(2, 50))
    np.testing.assert_allclose(geometric_median(stack), stack.mean(0), rtol=1e-14)
    assert geometric_median(stack, [1, 1.001]).tobytes() == stack[1].tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16], ids=str)
def test_a_member_that_is_the_median_comes_out_bit_for_bit(
    dtype: Any, rng: np.random.Generator
) -> None:
    # Opposite around the first, and one more whose pull is its weight at most.
    steps = rng.normal(size=(2, 70))
    wide = np.array([np.zeros(70), steps[0], -2 * steps[0], steps[1], -steps[1]])
    stack = round_to_dtype(wide + rng.normal(size=70), np.dtype(dtype))
    assert geometric_median(stack).tobytes() == stack[0].tobytes()
    found = geometric_median(stack[[1, 0, 2, 3]], [1, 1, 1, 0.9])
    assert found.tobytes() == stack[0].tobytes()


def test_the_median_leaves_a_member_continuously() -> None:
    """Two unit vectors pull at the corner with 2 cos(half the angle)."""
    half = math.pi / 3  # 120 degrees: from here on the corner is the median
    found = []
    for gap in (-1e-2, -1e-6, 0.0, 1e-6, 1e-2):
        angle = half - gap
        arms = np.array([[math.cos(angle), s * math.sin(angle)] for s in (1, -1)])
        found.append(geometric_median([[0.0, 0.0], *arms])[0])
        # Both arms are seen at 120 degrees from the Fermat point.
        expected = max(math.cos(angle) - math.sin(angle) / math.tan(math.pi / 3), 0.0)
        assert found[-1] == pytest.approx(expected, abs=1e-10)
    assert found[0] == found[1] == 0 < found[3] < found[4]


def test_a_far_member_hardly_pulls_it(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(5, 40))
    spread = np.linalg.norm(stack - stack.mean(0), axis=1).max()
    for size in (1e3, 1e6, 1e12):
        stack[4] = size * rng.normal(size=40)
        centre = stack[:4].mean(0)
        assert np.linalg.norm(geometric_median(stack) - centre) < 2 * spread


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_members_near_each_other_and_far_from_zero_keep_their_digits(
    gap: float, rng: np.random.Generator
) -> None:
    """Inner products of the members have no digit of their distances left."""
    steps = rng.integers(-9, 9, (4, 30)).astype(np.float64)
    scale = 2.0 ** round(math.log2(gap))
    stack = 1.0 + scale * steps
    expected = geometric_median(steps)
    found = (geometric_median(stack) - 1.0) / scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15 / scale + 1e-13)


def test_members_without_weight_may_hold_anything() -> None:
    stack = np.array([[0.0, 0], [1, 0], [0, 1], [9, 9]])
    found = geometric_median(stack, [1, 1, 1, 0])
    assert found.tobytes() == geometric_median(stack[:3]).tobytes()


def test_identical_members_among_others_count_with_all_their_weight() -> None:
    # As in yzhao062/pyod#746, which dropped repetitions.
    assert geometric_median(np.array([[0.0], [0], [0], [10], [20]])).tolist() == [0]
    stack = np.array([[0.0, 0], [1, 0], [0, 1], [0, 0], [1, 0]])
    found = geometric_median(stack, [1, 2, 3, 1, 0.5])
    np.testing.assert_allclose(
        found, geometric_median(stack[:3], [2, 2.5, 3]), rtol=1e-14
    )


def test_a_scope_of_the_model_takes_all_tensors_as_one_vector(
    rng: np.random.Generator,
) -> None:
    states = [{"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)} for _ in "xyz"]
    whole = average(
        states,
        rule="geometric_median",
        rule_params={"scope": "model"},
        weights=[1, 2, 2],
    )
    flat = np.array([np.concatenate([s["a"].ravel(), s["b"]]) for s in states])
    expected = geometric_median(flat, [1, 2, 2])
    found = np.concatenate([whole["a"].ravel(), whole["b"]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    each = average(states, rule="geometric_median", weights=[1, 2, 2])
    stack = np.array([state["b"] for state in states])
    assert each["b"].tobytes() == geometric_median(stack, [1, 2, 2]).tobytes()


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^scope of 'geometric_median' must be"):
        geometric_median.check(3, {"scope": "row"})


@pytest.mark.parametrize(("size", "word"), [(1e-170, "small"), (1e160, "large")])
def test_distances_whose_squares_float64_cannot_hold_are_refused(
    size: float, word: str
) -> None:
    stack = np.zeros((2, 2 * BLOCK))
    stack[1, -1] = size
    with pytest.raises(ValueError, match=f"at least one is too {word}; multiply all"):
        geometric_median(stack)
    # Entries may be of any size if the distances are not.
    assert geometric_median([[1e160], [1e160]]).tolist() == [1e160]


def test_the_smoothed_iteration_of_sd_mecha_converges_to_it() -> None:
    """Distances of at least 1e-6; near a member it takes thousands of steps."""
    for stack, slack in (
        (np.array([[0.0, 0], [4, 0], [1, 3]]), 1e-12),
        (np.array([[0.0, 0], [4, 0], [1, 3], [2, 2]]), 1e-3),
    ):
        point = stack.mean(0)
        for _ in range(1000):
            forces = 1 / np.maximum(np.linalg.norm(stack - point, axis=1), 1e-6)
            point = forces @ stack / forces.sum()
        np.testing.assert_allclose(geometric_median(stack), point, atol=slack)
