"""Singular values of updates from their factors."""

from __future__ import annotations

import numpy as np
import pytest

from ensembles.checkpoints.adapters.compression import decomposed
from ensembles.checkpoints.formats.lora.adapter import Factors


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-9], ids=["well", "ill", "worse"])
@pytest.mark.parametrize("rank", [3, 9], ids=["low", "above_the_sizes"])
def test_values_and_factors_are_those_of_the_dense_update(
    rank: int, scale: float
) -> None:
    rng = np.random.default_rng(0)
    factors = Factors(
        rng.standard_normal((2, rank, 6)), rng.standard_normal((2, 7, rank))
    )
    factors.a[:, 1] = factors.a[:, 0] + scale * factors.a[:, 1]
    result = decomposed(factors)
    dense = factors.b @ factors.a
    values = np.linalg.svd(dense, compute_uv=False)[:, : result.size]
    np.testing.assert_allclose(result.values, values, atol=1e-12)
    whole = result.truncated(result.size)
    np.testing.assert_allclose(whole.b @ whole.a, dense, atol=1e-12)
    # Singular values are split evenly.
    np.testing.assert_allclose(
        np.linalg.norm(whole.a, axis=2), np.linalg.norm(whole.b, axis=1), atol=1e-9
    )


def test_energy_counts_all_experts() -> None:
    a = np.zeros((2, 2, 3))
    a[0, 0, 0], a[1, 0, 0], a[1, 1, 1] = 3, 1, 1
    result = decomposed(Factors(a, np.stack([np.eye(4, 2)] * 2)))
    assert result.kept_energy(1) == pytest.approx(10 / 11)
    assert [result.rank_for(energy) for energy in (0.9, 0.92, 1)] == [1, 2, 2]


def test_an_update_of_zero_keeps_all_energy() -> None:
    result = decomposed(Factors(np.zeros((1, 2, 3)), np.zeros((1, 4, 2))))
    assert (result.rank_for(0.5), result.kept_energy(1)) == (1, 1)
