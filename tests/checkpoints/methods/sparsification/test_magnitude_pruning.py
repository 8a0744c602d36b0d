"""Magnitude pruning: against a sort in float64, and as peft computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import plan
from ensembles.checkpoints.methods import magnitude_prune, task_arithmetic
from ensembles.dtypes import FLOATS, round_to_dtype
from tests.checkpoints.methods.sparsification.trimmed import (
    BASE,
    MEMBERS,
    WEIGHTS,
    trimmed,
)
from tests.rules.test_rules import near


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_it_adds_the_largest_differences(
    dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    base, *members = round_to_dtype(rng.normal(size=(4, 600)), dtype)
    weights, stack = [1.0, 0.5, -0.25], np.array(members)
    wide = base.astype(np.float64)
    deltas = trimmed(stack.astype(np.float64) - wide, 60)
    total = sum(w * d for w, d in zip(weights, deltas, strict=True))
    for normalize, divisor in ((False, 1), (True, 1.25)):
        merged = magnitude_prune(
            stack, weights, base=base, density=0.1, scale=0.5, normalize=normalize
        )
        expected = wide + 0.5 * np.asarray(total) / divisor
        near(merged, round_to_dtype(expected, dtype), ulps=1)


def test_peft_is_reproduced() -> None:
    # peft 0.21, base + peft.utils.merge_utils.magnitude_prune(deltas, weights, 0.5) in
    # float64.
    merged = magnitude_prune(MEMBERS, WEIGHTS, base=BASE, density=0.5)
    expected = [1.45, -2, -0.8, 3, 0.6, -1, -0.125, 5.875, -3, -0.35]
    np.testing.assert_allclose(merged, expected, rtol=1e-14)


def test_with_density_one_it_is_task_arithmetic() -> None:
    merged = magnitude_prune(MEMBERS, WEIGHTS, base=BASE, density=1)
    np.testing.assert_allclose(merged, task_arithmetic(MEMBERS, WEIGHTS, base=BASE))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"density": -1}, "density must be a number from 0 to 1"),
        ({"scope": "all"}, "scope of 'magnitude_prune' must be one of"),
        ({"scale": "1"}, "scale of 'magnitude_prune' must be a finite number"),
        ({"normalize": "count"}, "normalize of 'magnitude_prune' must be one of True"),
    ],
    ids=str,
)
def test_parameters_are_checked_before_anything_is_read(
    params: dict[str, Any], message: str
) -> None:
    states = [{"w": np.ones(3)}, {"w": np.zeros(3)}]
    with pytest.raises(ValueError, match=message):
        plan(states, base={"w": np.ones(3)}, rule="magnitude_prune", rule_params=params)
