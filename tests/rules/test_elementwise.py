"""Members of which one is moved towards the other: nearswap."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles.dtypes import round_to_dtype
from ensembles.predictions import EnsembleRegressor
from ensembles.rules import nearswap


def test_nearswap_is_mergekits() -> None:
    """Its nearswap in float64 with t of 0.1, the first member as base_model."""
    first, second = [0.0, 1, -2, 3, 0.5], [0.05, 2, -2.05, 1, 0.5]
    found = nearswap([first, second], t=0.1)
    expected = [0.05, 1.1, -2.05, 2.8999999999999995, 0.5]
    np.testing.assert_allclose(found, expected, rtol=2e-16)


def test_a_tiny_t_is_not_diluted_as_by_mergekit() -> None:
    """mergekit counts differences below 1e-6 as 1e-6: its result here is 3e-8."""
    assert nearswap([[0.0], [3e-7]], t=1e-7).tolist() == [1e-7]


def test_near_entries_are_those_of_the_second_member_bit_for_bit(
    rng: np.random.Generator,
) -> None:
    stack = rng.normal(size=(2, 1000)) * 10.0 ** rng.integers(-9, 2, 1000)
    found = nearswap(stack, t=0.01)
    is_near = np.abs(stack[1] - stack[0]) <= 0.01
    assert 100 < is_near.sum() < 900
    assert found[is_near].tobytes() == stack[1][is_near].tobytes()
    assert nearswap(stack, t=0).tobytes() == stack[0].tobytes()
    assert nearswap(stack, t=1e9).tobytes() == stack[1].tobytes()


def test_a_bfloat16_result_is_rounded_once(rng: np.random.Generator) -> None:
    """mergekit computes w b + (1 - w) a in bfloat16, which misrounds a quarter."""
    dtype = np.dtype(ml_dtypes.bfloat16)
    wide = 0.02 * rng.normal(size=2000)
    stack = round_to_dtype(np.array([wide, wide + 1e-3 * rng.normal(size=2000)]), dtype)
    first, second = stack.astype(np.float64)
    expected = first + np.clip(second - first, -1e-4, 1e-4)
    found = nearswap(stack)
    assert found.tobytes() == round_to_dtype(expected, dtype).tobytes()


def test_infinities_and_nan_take_their_limits() -> None:
    inf, nan = math.inf, math.nan
    first = [1.0, inf, inf, -inf, 1.0, nan]
    second = [inf, 1.0, inf, inf, nan, 1.0]
    found = nearswap([first, second], t=0.5)
    np.testing.assert_array_equal(found, [1.5, inf, inf, -inf, nan, nan])


@pytest.mark.parametrize("t", [-1e-4, math.nan, math.inf, "1", None])
def test_t_must_be_a_distance(t: Any) -> None:
    with pytest.raises(ValueError, match=r"^t of 'nearswap' must be .* found "):
        nearswap.check(2, {"t": t})


def test_it_does_not_combine_predictions() -> None:
    """They are of any number of members, and a change of the first has no meaning."""
    with pytest.raises(ValueError, match="unknown rule 'nearswap'"):
        EnsembleRegressor([("a", None), ("b", None)], rule="nearswap").fit(
            np.eye(4), np.arange(4)
        )
