"""Resamples of rows, and percentile intervals."""

from __future__ import annotations

import numpy as np
import pytest

from ensembles.bootstrap import percentile_interval, resample


@pytest.mark.parametrize("n_resamples", [1, 64, 150])
def test_all_models_have_the_same_resamples(
    n_resamples: int, rng: np.random.Generator
) -> None:
    values = rng.normal(size=(3, 20))
    values[2] = values[0] + 1
    means = resample(
        lambda rows: values[:, rows].mean(axis=-1), 20, n_resamples=n_resamples, seed=1
    )
    assert means.shape == (3, n_resamples)
    np.testing.assert_allclose(means[2] - means[0], 1)
    draws = np.random.default_rng(1).integers(20, size=(min(64, n_resamples), 20))
    for drawn, mean in zip(draws, means[1], strict=False):
        assert mean == pytest.approx(sum(values[1, row] for row in drawn) / 20)


def test_an_interval_has_the_percentiles_of_the_resamples() -> None:
    values = np.arange(101.0)
    assert percentile_interval(7, values) == pytest.approx((7, 2.5, 97.5))
    assert percentile_interval(7, values, 0.9) == pytest.approx((7, 5, 95))


def test_the_interval_of_a_mean_is_near_that_of_the_normal_distribution(
    rng: np.random.Generator,
) -> None:
    values = rng.normal(size=(1, 400))
    means = resample(
        lambda rows: values[:, rows].mean(axis=-1), 400, n_resamples=2000, seed=0
    )
    _, low, high = percentile_interval(0, means[0])
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.01
    )
