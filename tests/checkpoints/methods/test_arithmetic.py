"""Task arithmetic: against fractions, by hand, and as mergekit computes it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.checkpoints import average, plan
from ensembles.checkpoints.methods import task_arithmetic
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.rules import mean

BASE = [1.0, -2.0, 0.5, 4.0]
MEMBERS = [[1.3, -2.2, 0.5, 4.1], [1.1, -2.3, 0.7, 3.9], [0.8, -1.9, 0.6, 4.0]]


def exact(stack: Array, weights: Any, base: Array, factor: Fraction) -> list[float]:
    """The formula in fractions, rounded to float64 once."""
    columns = np.array([base, *stack]).astype(np.float64).T.tolist()
    found = []
    for origin, *column in columns:
        total = sum(
            Fraction(w) * (Fraction(x) - Fraction(origin))
            for w, x in zip(weights, column, strict=True)
        )
        found.append(float(Fraction(origin) + factor * total))
    return found


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("normalize", [False, True])
def test_it_is_its_formula_rounded_once(
    dtype: np.dtype[Any], normalize: bool, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(rng.normal(size=(4, 500)), dtype)
    weights, scale = [1.0, 0.5, -0.25], 0.75
    factor = Fraction(scale) / (Fraction(5, 4) if normalize else 1)
    found = task_arithmetic(
        stack[1:], weights, base=stack[0], scale=scale, normalize=normalize
    )
    expected = np.array(exact(stack[1:], weights, stack[0], factor))
    assert found.tobytes() == round_to_dtype(expected, dtype).tobytes()


def test_mergekit_computes_the_same() -> None:
    # mergekit 0.1.5, merge_tensors([base, *members], "task_arithmetic", base_index=0,
    # parameters={"weight": {1: 1.0, 2: 0.5, 3: -0.25}, "lambda": 0.8}) in float64.
    expected = [1.32, -2.3000000000000003, 0.5599999999999999, 4.04]
    found = task_arithmetic(MEMBERS, [1, 0.5, -0.25], base=BASE, scale=0.8)
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    # With normalize=True, whose divisor is 1.25.
    found = task_arithmetic(MEMBERS, [1, 0.5, -0.25], base=BASE, normalize=True)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_bfloat16_is_not_rounded_on_the_way(rng: np.random.Generator) -> None:
    """Sums in bfloat16, as in mergekit, are often not the nearest number."""
    base = rng.normal(size=2_000).astype(ml_dtypes.bfloat16)
    stack = (base + 0.01 * rng.normal(size=(3, 2_000))).astype(ml_dtypes.bfloat16)
    by_steps = base + sum(row - base for row in stack)
    found = task_arithmetic(stack, base=base)
    wide = [a.astype(np.float64) for a in (*stack, base)]
    ideal = (sum(wide[:-1]) - 2 * wide[-1]).astype(ml_dtypes.bfloat16)
    assert found.tobytes() == ideal.tobytes()
    assert (by_steps != ideal).mean() > 0.002


def test_a_negative_weight_removes_a_task_and_weights_may_cancel() -> None:
    assert task_arithmetic([[3.0], [7.0]], [1, -1], base=[2.0]).tolist() == [-2]
    assert task_arithmetic([[3.0]], [-1], base=[2.0]).tolist() == [1]
    members = [[3.0], [7.0]]
    with pytest.raises(ValueError, match=r"sum to zero with normalize=True, found \[1"):
        task_arithmetic(members, [1, -1], base=[2.0], normalize=True)
    # As for a mean, what rounding leaves of 0.1 + 0.2 - 0.3 is zero.
    with pytest.raises(ValueError, match="normalize=False"):
        task_arithmetic([*members, [1.0]], [0.1, 0.2, -0.3], base=[2.0], normalize=True)


def test_a_difference_is_added_to_another_member(rng: np.random.Generator) -> None:
    a, b, base = rng.normal(size=(3, 20))
    found = task_arithmetic([a, b], [1, 0.5], base=base)
    np.testing.assert_allclose(found, a + 0.5 * (b - base), rtol=1e-14, atol=1e-15)


def test_normalized_it_is_the_mean(rng: np.random.Generator) -> None:
    stack, weights = rng.normal(size=(3, 50)), [1.0, 2.0, 4.0]
    found = task_arithmetic(stack, weights, base=rng.normal(size=50), normalize=True)
    np.testing.assert_allclose(found, mean(stack, weights), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("scale", [np.nan, np.inf, "1", None, True])
def test_a_scale_is_a_finite_number(scale: Any) -> None:
    with pytest.raises(ValueError, match=r"^scale of 'task_arithmetic' must be a fin"):
        task_arithmetic([[1.0]], base=[1.0], scale=scale)
    with pytest.raises(
        ValueError, match=r"^normalize of .* must be one of True, False"
    ):
        task_arithmetic([[1.0]], base=[1.0], normalize="yes")


def test_a_member_without_weight_may_hold_anything() -> None:
    found = task_arithmetic([[np.nan], [3.0]], [0, 1], base=[2.0])
    assert found.tolist() == [3]


def test_weights_that_cannot_be_normalized_are_refused_before_reading() -> None:
    members = [{"w": np.ones(2)}, {"w": np.zeros(2)}]
    how: Any = {"base": {"w": np.zeros(2)}, "rule": "task_arithmetic"}
    assert average(members, weights=[1, -1], **how)["w"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="sum to zero with normalize=True"):
        plan(members, weights=[1, -1], rule_params={"normalize": True}, **how)
