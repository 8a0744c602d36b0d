"""DELLA: against loops over ranks, by expectation, and as published code does it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average, plan
from ensembles.checkpoints.methods import (
    dare_linear,
    dare_ties,
    della_linear,
    della_ties,
    task_arithmetic,
)
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels import jit
from ensembles.kernels.task_vectors.random_masks import random_words
from tests.checkpoints.methods.sparsification.test_dare import (
    BASE,
    MEMBERS,
    SIGMAS,
    agreeing_mean,
    nearly_equal,
    published,
)


def probabilities(row: Float64, density: float, epsilon: float) -> list[float]:
    """Probability of each entry of a row, by counting smaller and equal ones."""
    found, n = [], len(row)
    mantissas, exponents = np.frexp(np.abs(row))
    truncated = np.ldexp(np.floor(mantissas * 256), exponents)  # 8 significant bits
    for value in truncated.tolist():
        rank = (truncated < value).sum() + ((truncated == value).sum() - 1) / 2
        share = rank / (n - 1) if n > 1 else 0.5
        found.append(density - epsilon + 2 * epsilon * share)
    return found


def kept_differences(
    stack: Array, base: Array, density: float, epsilon: float
) -> Float64:
    """Differences in float64, divided by their probabilities."""
    deltas = stack.astype(np.float64) - base.astype(np.float64)
    p = np.array(
        [
            [probabilities(row, density, epsilon) for row in member]
            for member in deltas.reshape(len(stack), -1, base.shape[-1])
        ]
    ).reshape(deltas.shape)
    words = [random_words(0, "", i, 0, base.size) for i in range(len(stack))]
    uniform = np.array(words).reshape(deltas.shape) * 2.0**-32
    return np.asarray(np.where(uniform < p, deltas, 0) / p)


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("shape", [(12, 30), (3, 4, 5), (40,), (6, 1), ()], ids=str)
def test_they_are_their_formulas_rounded_once(
    dtype: np.dtype[Any], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    stack = round_to_dtype(rng.normal(size=(4, *shape)), dtype)
    base, stack = stack[0], stack[1:]
    weights, how = [1.0, -0.5, 0.75], {"base": base, "density": 0.6, "epsilon": 0.3}
    rows = base.reshape(-1)[None] if base.ndim == 0 else base
    deltas = kept_differences(stack.reshape(3, *rows.shape), rows, 0.6, 0.3)
    deltas, wide = deltas.reshape(stack.shape), base.astype(np.float64)
    total = sum(w * row for w, row in zip(weights, deltas, strict=True))
    nearly_equal(della_linear(stack, weights, scale=0.5, **how), wide + 0.5 * total)
    expected = wide + 0.5 * agreeing_mean(deltas, weights)
    nearly_equal(della_ties(stack, weights, scale=0.5, **how), expected)


def test_without_epsilon_or_with_density_1_they_are_dare(
    rng: np.random.Generator,
) -> None:
    stack = rng.normal(size=(4, 30, 20)).astype(np.float32)
    for one, other in ((della_linear, dare_linear), (della_ties, dare_ties)):
        for how in ({"density": 0.3}, {"density": 0.3, "rescale": "l1"}):
            found = one(stack[1:], base=stack[0], epsilon=0, **how)
            assert (found == other(stack[1:], base=stack[0], **how)).all()
        found = one(stack[1:], base=stack[0], density=1, epsilon=0.2)
        assert (found == other(stack[1:], base=stack[0], density=1)).all()


def test_members_may_have_probabilities_of_their_own(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(3, 10, 100))
    how: Any = {"density": [0.25, 0.9], "epsilon": [0.2, 0]}
    found = della_linear(stack[1:], base=stack[0], **how)
    parts = [
        della_linear(stack[1:], [1, 0], base=stack[0], density=0.25, epsilon=0.2),
        dare_linear(stack[1:], [0, 1], base=stack[0], density=0.9),
    ]
    np.testing.assert_allclose(found, sum(parts) - stack[0], atol=1e-13)


def test_the_expectation_is_task_arithmetic() -> None:
    row, n = np.array([0.0, 1, -2, 3, -4, 5]), 20_000
    found = della_linear(np.tile(row, (1, n, 1)), base=np.zeros((n, 6)), density=0.5)
    p = np.array(probabilities(row, 0.5, 0.15))
    error = np.abs(row) * np.sqrt((1 / p - 1) / n)
    assert (np.abs(found.mean(0) - row) <= SIGMAS * error).all()
    kept = (found != 0).mean(0)[1:]
    assert (np.abs(kept - p[1:]) < SIGMAS * np.sqrt(p * (1 - p) / n)[1:]).all()
    expected = task_arithmetic(row[None], base=np.zeros(6))
    assert (expected == row).all()


def test_equal_differences_of_a_row_are_kept_with_the_density() -> None:
    n = 40_000
    for shape in ((n // 8, 8), (n, 1), (n,)):
        found = della_linear(np.ones((1, *shape)), base=np.zeros(shape), density=0.3)
        np.testing.assert_allclose(np.unique(found), [0, 1 / 0.3])
        assert abs((found > 0).mean() - 0.3) < SIGMAS * math.sqrt(0.21 / n)


# Published code, run in float64 with torch.bernoulli replaced by one that returns
# masks of `words_of_counters` for its probabilities, on MEMBERS, BASE and WEIGHTS.


def test_mergekit_computes_the_same() -> None:
    # mergekit 0.1.5, merge_tensors([BASE, *MEMBERS], "della_linear", base_index=0,
    # parameters={"weight": {1: 1.0, 2: 0.5, 3: 2.0}, "density": {1: 0.5, ...},
    # "epsilon": {1: 0.2, ...}, "lambda": 0.75}) and "della".
    linear = [
        *(-2.898026228, -0.117967628, -4.154910684, -0.110922156, -0.624805108),
        *(2.770178422, 0.625, 1.5, 0.3125, 5.18761906, -3.112938523, 1.92089849),
        *(-0.875, -0.28665863, 1.361440435, 1.707529917, 0.254707474, 0.87901786),
    ]
    how: Any = {"epsilon": 0.2, "rescale": "l1", "scale": 0.75}
    published(della_linear, linear, **how)
    elected = [
        *(-0.917763114, 0.025402251, -4.154910684, -0.096844313, 0.350077957),
        *(2.305118948, 0.625, 1.5, 0.3125, 2.412547624, -1.462719262, -0.210100432),
        *(-0.875, -0.94831726, 0.720126957, 2.165059835, 0.131615169, 0.87901786),
    ]
    published(della_ties, elected, zero_sum="positive", **how)


def test_the_authors_code_computes_the_same() -> None:
    # declare-lab/della, rank_magnitude(difference, 0.5, epsilon=0.2) of sparsify.py,
    # then sums, and the steps of generalized_task_arithmetic.py, with lambda 0.75.
    linear = [
        *(-2.566532258, -0.485243056, -3.658770161, -0.0859375, -1.048315875),
        *(2.904988354, 0.625, 1.5, 0.3125, 4.613839286, -2.836693548, 2.579399786),
        *(-0.875, -0.411830357, 1.068254368, 1.864289315, -0.331799583, 1.074652778),
    ]
    published(della_linear, linear, epsilon=0.2, scale=0.75)
    elected = [
        *(-0.752016129, 0.259920635, -3.658770161, -0.046875, 0.18067365),
        *(2.394992236, 0.625, 1.5, 0.3125, 2.183035714, -1.324596774, -0.021957204),
        *(-0.875, -1.198660714, 0.524669579, 2.478578629, 0.192726595, 1.074652778),
    ]
    published(della_ties, elected, epsilon=0.2, scale=0.75)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rescale", ["expected", "l1", None])
def test_small_densities_and_long_rows_do_not_overflow_in_half_precision(
    dtype: str, rescale: Any, rng: np.random.Generator
) -> None:
    # In float16, ranks above 65,504 and sums of differences are infinite.
    base = round_to_dtype(rng.normal(size=70_000), np.dtype(dtype))
    member = round_to_dtype(base.astype(np.float64) + 2, base.dtype)
    how: Any = {"base": base, "density": 2.0**-12, "epsilon": 2.0**-13}
    for rule in (della_linear, della_ties):
        found = rule([member], rescale=rescale, **how).astype(np.float64)
        assert np.isfinite(found).all()
        assert 0 < (found != base.astype(np.float64)).sum() < 60


def test_files_and_memory_give_the_same_for_any_threads(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {n: rng.normal(size=(300, 401)).astype(np.float32) for n in "ab"}
    base["norm"] = rng.normal(size=401).astype(np.float32)
    members = [
        {n: t + rng.normal(size=t.shape).astype(t.dtype) for n, t in base.items()}
        for _ in range(2)
    ]
    paths = [tmp_path / f"{name}.safetensors" for name in ("x", "y", "base")]
    for state, path in zip([*members, base], paths, strict=True):
        save_file(state, path)
    for rule, params in (
        ("della_linear", {"rescale": "l1", "density": 0.3}),
        ("della_ties", {"seed": 5}),
    ):
        how: Any = {"rule": rule, "rule_params": params}
        results = set()
        for memory, threads, worthwhile in (
            (4 << 20, 1, -1),
            (64 << 20, 3, 1 << 62),
        ):
            monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
            out = tmp_path / f"{memory}.safetensors"
            average(
                paths[:2],
                out,
                base=paths[2],
                memory=memory,
                threads=threads,
                force=True,
                **how,
            )
            results.add(tuple(t.tobytes() for t in load_file(out).values()))
        in_memory = average(members, base=base, **how)
        results.add(tuple(in_memory[name].tobytes() for name in load_file(out)))
        assert len(results) == 1


def test_a_row_that_exceeds_the_memory_is_noted() -> None:
    base, rows = ({"w": np.zeros((3, 1 << 20), np.float32)} for _ in range(2))
    notes = plan([rows] * 2, base=base, rule="della_ties", memory=4 << 20).notes
    assert any("rule 'della_ties' reads whole rows, which needs" in n for n in notes)


def test_epsilon_that_leaves_no_probability_is_refused() -> None:
    state, base = {"w": np.ones(3)}, {"w": np.ones(3)}
    for density, epsilon in ((0.15, 0.15), (0.95, 0.15), ([0.5, 0.9], 0.2)):
        params = {"density": density, "epsilon": epsilon}
        with pytest.raises(ValueError, match=r"density - epsilon must be above 0 and"):
            plan([state] * 2, base=base, rule="della_linear", rule_params=params)
    with pytest.raises(ValueError, match="epsilon must be a number from 0 to 1"):
        della_linear(MEMBERS, base=BASE, epsilon=-0.1)
    assert np.isfinite(della_linear(MEMBERS, base=BASE, density=0.7, epsilon=0.3)).all()
