"""Tensors with noise and a factor, and joined tensors, read at any position."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import MemorySource, Source, Tensor
from ensembles.checkpoints.views.joining import JoinedSource
from ensembles.checkpoints.views.perturbation import (
    PerturbedSource,
    standard_normal,
    standard_uniform,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def stored(array: Array) -> Tensor:
    """A tensor that does not start at the first byte of its source."""
    padded = np.concatenate([np.zeros(3, array.dtype), array.reshape(-1)])
    return Tensor(array.dtype, array.shape, MemorySource(padded), 3 * array.itemsize)


def read(source: Source, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    source.read_into(memoryview(buffer), start)
    return bytes(buffer)


def test_values_are_computed_in_float64_and_rounded_once(rng: Generator) -> None:
    array = rng.standard_normal((5, 7)).astype(np.float32)
    source = PerturbedSource(
        stored(array), BFLOAT16, name="w", seed=3, noise_scale=0.25, factor=0.1
    )
    noise = standard_normal(3, "w", 0, array.size).reshape(array.shape)
    exact = 0.1 * (array.astype(float) + 0.25 * noise)
    got = np.frombuffer(read(source, 0, 2 * array.size), BFLOAT16).astype(float)
    # Half of the distance between neighbors, of 8 bits, and no more.
    assert np.all(abs(got - exact.reshape(-1)) <= abs(exact.reshape(-1)) * 2.0**-8)
    assert not np.array_equal(got, array.reshape(-1).astype(BFLOAT16).astype(float))


@pytest.mark.parametrize("kind", ["perturbed", "joined"])
def test_any_range_of_bytes_is_that_of_the_whole(rng: Generator, kind: str) -> None:
    arrays = [rng.standard_normal(size).astype(np.float32) for size in (5, 1, 9)]
    tensors = [stored(array) for array in arrays]
    source: Source = JoinedSource(tensors)
    n_bytes = sum(tensor.nbytes for tensor in tensors)
    if kind == "perturbed":
        whole = Tensor(np.dtype(np.float32), (15,), source, 0)
        source = PerturbedSource(whole, BFLOAT16, name="w", seed=0, noise_scale=1.0)
        n_bytes //= 2
    every = read(source, 0, n_bytes)
    if kind == "joined":
        assert every == b"".join(array.tobytes() for array in arrays)
    for start in range(n_bytes):
        for stop in range(start, n_bytes + 1):
            assert read(source, start, stop) == every[start:stop]


def test_random_numbers_have_their_distributions_and_depend_on_the_name() -> None:
    uniform = standard_uniform(0, "w", 0, 40_000)
    assert uniform.min() > 0
    assert uniform.max() < 1
    counts = np.histogram(uniform, 10, (0, 1))[0]
    assert np.all(abs(counts - 4000) < 300)
    normal = standard_normal(0, "w", 0, 40_000)
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(1, abs=0.02)
    assert np.mean(abs(normal) < 1) == pytest.approx(0.6827, abs=0.01)
    other = standard_normal(0, "v", 0, 40_000)
    assert abs(np.corrcoef(normal, other)[0, 1]) < 0.02
    np.testing.assert_array_equal(standard_normal(0, "w", 17, 9), normal[17:26])
