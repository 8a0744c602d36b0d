"""Spherical interpolation of task vectors: rules on differences, plus the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average
from ensembles.checkpoints.methods import (
    model_stock,
    multislerp_task_vectors,
    nuslerp_task_vectors,
)
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.rules import multislerp, nuslerp


def related(
    rng: np.random.Generator, n_members: int, dtype: Any
) -> tuple[Array, Array]:
    base = round_to_dtype(rng.standard_normal((6, 50)), dtype)
    noise = 0.1 * rng.standard_normal((n_members, 6, 50))
    return round_to_dtype(base.astype(np.float64) + noise, dtype), base


def differences(stack: Array, base: Array) -> Float64:
    return np.asarray(stack.astype(np.float64) - base.astype(np.float64))


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("vectors", ["tensor", "row", "column"])
@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0, 1]], ids=str)
def test_nuslerp_is_that_of_the_differences_rounded_once(
    vectors: str, weights: list[float], dtype: Any, rng: np.random.Generator
) -> None:
    stack, base = related(rng, 2, dtype)
    update = nuslerp(differences(stack, base), weights, vectors=vectors)
    expected = round_to_dtype(base.astype(np.float64) + update, dtype)
    result = nuslerp_task_vectors(stack, weights, base=base, vectors=vectors)
    if dtype == np.float64:
        np.testing.assert_allclose(result, expected, rtol=1e-13, atol=1e-15)
    else:
        assert (result == expected).mean() > 0.99


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("params", [{}, {"normalize": False}, {"eps": 0.5}], ids=str)
def test_multislerp_is_that_of_the_differences_rounded_once(
    params: dict[str, Any], dtype: Any, rng: np.random.Generator
) -> None:
    stack, base = related(rng, 3, dtype)
    weights = [0.5, 0.2, 0.6]
    update = multislerp(differences(stack, base), weights, **params)
    expected = round_to_dtype(base.astype(np.float64) + update, dtype)
    result = multislerp_task_vectors(stack, weights, base=base, **params)
    if dtype == np.float64:
        np.testing.assert_allclose(result, expected, rtol=1e-13, atol=1e-15)
    else:
        assert (result == expected).mean() > 0.99


def test_one_member_is_its_own_result(rng: np.random.Generator) -> None:
    stack, base = related(rng, 1, np.dtype(np.float32))
    np.testing.assert_array_equal(multislerp_task_vectors(stack, base=base), stack[0])


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("weights", [None, [1, 2, 0, 1]], ids=str)
def test_each_row_of_model_stock_is_a_tensor_of_its_own(
    clamp: bool, weights: list[float] | None, rng: np.random.Generator
) -> None:
    stack, base = related(rng, 4, np.dtype(np.float64))
    result = model_stock(stack, weights, base=base, clamp=clamp, vectors="row")
    for row in range(6):
        expected = model_stock(stack[:, row], weights, base=base[row], clamp=clamp)
        np.testing.assert_allclose(result[row], expected, rtol=1e-12)
    as_tensor = model_stock(stack, weights, base=base, clamp=clamp)
    assert not np.allclose(result, as_tensor, rtol=1e-6)


@pytest.mark.parametrize("rule", [nuslerp_task_vectors, model_stock])
def test_unknown_vectors_are_refused(rule: Any, rng: np.random.Generator) -> None:
    stack, base = related(rng, 2, np.dtype(np.float64))
    with pytest.raises(ValueError, match=r"vectors of .* one of 'tensor', 'row'"):
        rule(stack, base=base, vectors="columns")


def test_streamed_columns_are_the_same_for_any_memory_and_threads(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    shapes = {"wide": (700, 513), "thin": (90_000, 2), "vector": (300_001,)}
    shared = {n: 3 * rng.normal(size=shape) for n, shape in shapes.items()}
    for name in "abc":
        state = {n: t + rng.normal(size=t.shape) for n, t in shared.items()}
        stored = {n: tensor.astype(np.float32) for n, tensor in state.items()}
        save_file(stored, tmp_path / f"{name}.safetensors")
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    contents = set()
    for memory, threads in ((8 << 20, 1), (64 << 20, 3)):
        out = tmp_path / f"{memory}.safetensors"
        average(
            paths[1:],
            out,
            base=paths[0],
            rule="nuslerp_task_vectors",
            rule_params={"vectors": "column"},
            memory=memory,
            threads=threads,
        )
        contents.add(out.read_bytes())
    assert len(contents) == 1
    base, *members = (load_file(path) for path in paths)
    for name, tensor in load_file(out).items():
        stack = np.array([member[name] for member in members])
        options: dict[str, Any] = {"base": base[name], "vectors": "column"}
        expected = nuslerp_task_vectors(stack, **options)
        assert tensor.tobytes() == expected.tobytes()
