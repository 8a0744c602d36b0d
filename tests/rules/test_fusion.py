"""Arcee Fusion against its definition, with all scores of a tensor in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average
from ensembles.dtypes import round_to_dtype
from ensembles.rules import arcee_fusion
from ensembles.rules.fusion import divergences

# Members, and where mergekit 0.1.5 takes the second in float64: arcee_fusion's
# _compute_importance and its threshold of 0.0006377100553223227.
PAIR = np.array(
    [
        [
            [0.9, 0.09, -0.74, -0.92, -0.46, 0.22],
            [-1.01, -0.21, -0.16, 0.54, 0.21, 0.36],
            [-0.65, -0.13, 0.78, 1.49, -1.26, 1.51],
            [1.35, 0.78, 0.26, -0.31, 1.46, 1.96],
        ],
        [
            [1.08, 0.22, -0.7, -1.04, -0.46, 0.29],
            [-1.14, -0.17, -0.12, 0.61, 0.09, 0.29],
            [-0.69, -0.25, 0.95, 1.44, -1.23, 1.48],
            [1.51, 0.91, 0.32, -0.53, 1.47, 2.03],
        ],
    ]
)


def scores_of(stack: Array) -> Float64:
    """Importance of each entry, row by row, with exact sums."""
    first, second = stack.astype(np.float64).reshape(2, -1, stack.shape[-1])
    scores = np.empty(first.shape)
    for a, b, row in zip(first, second, scores, strict=True):
        p, q = (np.exp(x - x.max()) for x in (b, a))
        p, q = p / math.fsum(p) + 1e-8, q / math.fsum(q) + 1e-8
        row[:] = np.abs(b - a) * math.fsum(p * np.log(p / q))
    return scores.reshape(stack.shape[1:])


def threshold_of(scores: Float64) -> float:
    ordered = np.sort(scores.ravel())
    first, median, third = (
        float(ordered[(ordered.size - 1) * k // 4]) for k in (1, 2, 3)
    )
    return median + 1.5 * (third - first)


def members(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    first = rng.normal(size=shape)
    changes = 0.1 * rng.standard_t(2, size=shape)
    return round_to_dtype(np.array([first, first + changes]), np.dtype(dtype))


def check(found: Array, stack: Array) -> None:
    """As the definition, but for scores within float32's precision of the threshold."""
    scores = scores_of(stack)
    threshold = threshold_of(scores)
    expected = np.where(scores >= threshold, stack[1], stack[0])
    is_close = np.abs(scores - threshold) <= 1e-6 * threshold
    assert ((found == expected) | is_close).all()
    assert 0.01 < (found != stack[0]).mean() < 0.3


def test_mergekit_takes_the_same_entries() -> None:
    found = arcee_fusion(PAIR)
    expected = PAIR[0].copy()
    expected[2, 2] = PAIR[1, 2, 2]
    assert found.tolist() == expected.tolist()
    assert threshold_of(scores_of(PAIR)) == pytest.approx(0.0006377100553223, rel=1e-9)


@pytest.mark.parametrize("shape", [(40, 50), (3, 20, 30), (900,), (1, 700)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_entries_beyond_the_fence_are_those_of_the_second_member(
    shape: tuple[int, ...], dtype: Any, rng: np.random.Generator
) -> None:
    stack = members(rng, shape, dtype)
    check(arcee_fusion(stack), stack)


def test_a_divergence_is_that_of_the_smoothed_softmax() -> None:
    # Odds of 3 to 1 against even odds: 3/4 log(3/2) + 1/4 log(1/2).
    rows = np.array([[[0.0, 0.0]], [[math.log(3.0), 0.0]]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergences(rows) == pytest.approx(expected, rel=1e-7)
    assert divergences(rows + 1e3) == pytest.approx(expected, rel=1e-7)
    # Without the smoothing it is 40, the difference of the logits.
    rows = np.array([[[0.0, -40.0]], [[-40.0, 0.0]]])
    assert divergences(rows) == pytest.approx(math.log(1e8), rel=1e-6)


def test_a_member_that_equals_the_other_is_taken_over(
    rng: np.random.Generator,
) -> None:
    one = rng.normal(size=(4, 5))
    assert arcee_fusion([one, one]).tobytes() == one.tobytes()
    # Three quarters are unchanged: the threshold is 0, and all changes are taken.
    other = one.copy()
    other[0] += 1
    assert arcee_fusion([one, other]).tobytes() == other.tobytes()


def test_a_nan_makes_the_tensor_nan_instead_of_passing_unnoticed(
    rng: np.random.Generator,
) -> None:
    for member in range(2):
        stack = members(rng, (4, 5), np.float64)
        stack[member, 2, 3] = np.nan
        assert np.isnan(arcee_fusion(stack)).all()


def test_streamed_it_is_the_same_for_any_memory_and_threads(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    shapes = {"wide": (500, 700), "long": (70_001,), "deep": (3, 40_000, 2)}
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    stacks = {n: members(rng, shape, np.float32) for n, shape in shapes.items()}
    for index, path in enumerate(paths):
        save_file({n: stack[index] for n, stack in stacks.items()}, path)
    contents = set()
    for memory, threads in ((8 << 20, 1), (64 << 20, 2)):
        out = tmp_path / f"{memory}.safetensors"
        average(paths, out, rule="arcee_fusion", memory=memory, threads=threads)
        contents.add(out.read_bytes())
    assert len(contents) == 1
    for name, tensor in load_file(out).items():
        assert tensor.tobytes() == arcee_fusion(stacks[name]).tobytes()
        if name != "deep":
            check(tensor, stacks[name])
