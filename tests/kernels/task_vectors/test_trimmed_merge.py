"""Base plus trimmed task vectors with an elected sign: loops, NumPy, and the parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels import jit
from ensembles.kernels.task_vectors.magnitudes import deltas_between
from ensembles.kernels.task_vectors.sign_election import SIGNS, elected_sum
from ensembles.kernels.task_vectors.stored_members import SPAN
from ensembles.kernels.task_vectors.trimmed_merge import merge_trimmed
from tests.kernels.test_kernels import PLAIN, numbers

WEIGHTS = np.array([0.3, 0.0, -1.2, 2.0])
INTERVAL = np.array([0.0, 0.1, 0.3, 0.2]), np.array([np.inf, 1.0, 0.7, np.inf])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("interval", [None, INTERVAL], ids=["all", "trimmed"])
@pytest.mark.parametrize("size", [0, 1, SPAN + 70])
def test_loops_and_numpy_equal_the_sum_of_the_kept_deltas_bit_for_bit(
    dtype: np.dtype[Any],
    sign: Any,
    interval: Any,
    size: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = numbers(dtype, rng, (5, min(size, 99) if PLAIN else size))
    members, base = stack[1:], stack[0]
    low, high = interval or (np.zeros(4), np.full(4, np.inf))
    wide = stack.astype(np.float64)
    options: dict[str, Any] = {"sign": sign, "normalize": "count", "zero_sum": 1}
    results = []
    for worthwhile in (-1, 1 << 62):
        monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
        with np.errstate(all="ignore"):
            deltas = deltas_between(wide[1:], wide[0], low, high)
            total = 0.7 * elected_sum(deltas, WEIGHTS, **options) + wide[0]
            expected = round_to_dtype(total, dtype)
            merged = merge_trimmed(
                members, WEIGHTS, base, interval, scale=0.7, **options
            )
        assert merged.dtype == dtype
        assert merged.tobytes() == expected.tobytes()
        results.append(merged.tobytes())
    assert results[0] == results[1]
