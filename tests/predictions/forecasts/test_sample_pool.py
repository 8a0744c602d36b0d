"""The linear pool of samples: shares, trajectories, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.predictions.forecasts import crps_of_samples, pool_samples


def numbered(n_members: int = 3, n_units: int = 2, n_samples: int = 10) -> Any:
    """Samples that name their member (hundreds), trajectory, and unit (tenths)."""
    members, units, samples = np.ogrid[:n_members, :n_units, :n_samples]
    return 100 * members + samples + units / 10


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        (None, [4, 3, 3]),
        ([1, 0, 1], [5, 0, 5]),
        ([0.55, 0.26, 0.19], [5, 3, 2]),
        ([0, 7, 0], [0, 10, 0]),
    ],
)
def test_each_member_gives_its_share(weights: Any, counts: list[int]) -> None:
    pooled = pool_samples(numbered(), weights)
    owners = (pooled[0] // 100).astype(int)
    assert np.bincount(owners, minlength=3).tolist() == counts
    assert len(np.unique(pooled[0])) == 10  # without replacement


def test_a_sample_stays_a_trajectory() -> None:
    pooled = pool_samples(numbered(n_units=4), n_samples=6)
    assert pooled.shape == (4, 6)
    assert pooled - pooled[0] == pytest.approx(np.arange(4)[:, None] / 10 + pooled * 0)


def test_draws_follow_the_seed() -> None:
    stack = numbered(n_samples=50)
    assert np.array_equal(pool_samples(stack), pool_samples(stack))
    other = pool_samples(stack, random_state=1)
    assert not np.array_equal(pool_samples(stack), other)


def test_an_absent_member_gives_no_samples() -> None:
    stack = numbered()
    stack[1] = np.nan
    owners = (pool_samples(stack, [2, 5, 1])[0] // 100).astype(int)
    assert np.bincount(owners, minlength=3).tolist() == [7, 0, 3]


def test_a_pool_of_many_samples_has_the_crps_of_the_mixture() -> None:
    rng = np.random.default_rng(0)
    stack = rng.normal(size=(2, 5, 2000)) + np.array([0.0, 3.0])[:, None, None]
    y = rng.normal(size=5)
    pooled = pool_samples(stack, [3, 1])
    both = stack.transpose(1, 0, 2).reshape(5, -1)
    expected = crps_of_samples(y, both, weights=np.repeat([3.0, 1.0], 2000))
    assert crps_of_samples(y, pooled) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("stack", "options", "match"),
    [
        ([[1.0]], {}, "must have the shape"),
        (np.empty((2, 0, 3)), {}, "without empty axes"),
        ([[[1.0, np.nan]]], {}, "member 0 lacks some"),
        ([[[1.0]], [[np.nan]]], {"weights": [0, 1]}, "with a weight must be present"),
        ([[[1.0, 2.0]]], {"n_samples": 3}, "from 1 to the 2 samples of each member"),
        ([[[1.0, 2.0]]], {"n_samples": 0}, "from 1 to the 2 samples"),
    ],
)
def test_samples_that_cannot_be_pooled_are_an_error(
    stack: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        pool_samples(stack, **options)
