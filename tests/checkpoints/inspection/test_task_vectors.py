"""Inner products of task vectors do not depend on how they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from ensembles.checkpoints.inspection.task_vectors import task_vector_gram
from ensembles.kernels.gram import BLOCK
from tests.checkpoints.building import save


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
def test_the_gram_matrix_is_that_of_the_float64_differences(
    rng: np.random.Generator, tmp_path: Path, dtype: type
) -> None:
    size = 2 * BLOCK + 17
    tensors: list[Any] = [rng.standard_normal(size).astype(dtype) for _ in range(4)]
    base, members = tensors[0], tensors[1:]
    differences = np.array([m.astype(np.float64) for m in members])
    differences -= base.astype(np.float64)
    expected = differences @ differences.T
    paths = [
        save(tmp_path / f"{n}.safetensors", {"w": tensor, "n": np.arange(n)[:1]})
        for n, tensor in enumerate([base, *members], 1)
    ]
    gram = task_vector_gram(paths[1:], paths[0], threads=1)
    np.testing.assert_allclose(gram, expected, rtol=1e-12)
    n_bytes: list[int] = []
    again = task_vector_gram(
        paths[1:], paths[0], threads=3, memory=16 << 20, progress=n_bytes.append
    )
    np.testing.assert_array_equal(again, gram)
    assert sum(n_bytes) == 4 * size * np.dtype(dtype).itemsize


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.pt" for n in range(3)]
    for number, path in enumerate(paths):
        torch.save({"w": torch.full((64,), float(number))}, path)
    content = bytearray(paths[2].read_bytes())
    at = content.index(np.float32(2).tobytes() * 4)
    content[at] ^= 1
    paths[2].write_bytes(content)
    with pytest.raises(ValueError, match=r"2\.pt"):
        task_vector_gram(paths[1:], paths[0])
