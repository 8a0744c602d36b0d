"""What must hold of every rule with a base, read from its properties."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average, plan
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels.gram import BLOCK
from ensembles.rules.passes import Position
from ensembles.rules.rule import Rule
from ensembles.rules.statistics import add_statistics
from tests.rules.test_adding_a_base import (
    add_large_differences,
    magnitudes,
    thresholds,
)
from tests.rules.test_rules import drawn, near, weights_for

Dtype = np.dtype[Any]


def add_task_vectors(stack: Float64, weights: Float64, *, base: Float64) -> Float64:
    """Base plus the weighted sum of the members' differences from it."""
    total = np.zeros(base.shape)
    for row, weight in zip(stack, weights, strict=True):
        total += weight * (row - base)
    return base + total


def add_mean_task_vector(stack: Float64, weights: Float64, *, base: Float64) -> Float64:
    """Base plus the weighted mean of the members' differences from it."""
    total = add_task_vectors(stack, weights, base=base) - base
    return np.asarray(base + total / weights.sum())


TASK_VECTORS = Rule(add_task_vectors, needs_base=True, signed=True)
SAMPLES = [
    TASK_VECTORS,
    Rule(add_mean_task_vector, needs_base=True, weight_sum_matters=False),
    Rule(
        add_large_differences,
        statistics=magnitudes,
        finish=thresholds,
        needs_base=True,
        signed=True,
    ),
]
WITH_A_BASE = [rule for rule in RULES.values() if rule.needs_base] + SAMPLES
# Values other than the default, which a rule may refuse.
WHOLE = ("matrix", "tensor")
VALUES: dict[str, list[Any]] = {
    "density": [0.3],
    "scope": ["tensor", "model"],
    "scale": [0.5],
    "normalize": [True, False],
    "sign": ["count"],
    "rescale": ["l1", None],
    "r": [0.5],
    "clamp": [False],
    "unselected": ["keep"],
    "seed": [1],
    "solver": ["exact"],
    "common_fraction": [0.5],
    "exclude": ["layers.0.weight"],
}


def accepts(rule: Rule, params: dict[str, Any]) -> bool:
    try:
        rule.check(rule.n_members or 5, params, has_base=True)
    except ValueError:
        return False
    return True


def variants(rule: Rule) -> Iterator[dict[str, Any]]:
    """The defaults, each other value of a parameter, and many of them together."""
    changes = [
        {name: value}
        for name, values in VALUES.items()
        for value in values
        if name in rule.params and value != rule.params[name]
    ]
    yield {}
    together: dict[str, Any] = {}
    for change in changes:
        if accepts(rule, change):
            yield change
            if accepts(rule, {**change, **together}):
                together = {**change, **together}
    if len(together) > 1:
        yield together


VARIANTS = [(rule, params) for rule in WITH_A_BASE for params in variants(rule)]
each_rule = pytest.mark.parametrize("rule", WITH_A_BASE, ids=lambda rule: rule.name)
each_variant = pytest.mark.parametrize(
    ("rule", "params"),
    VARIANTS,
    ids=[f"{rule.name}-{params}" for rule, params in VARIANTS],
)
each_dtype = pytest.mark.parametrize("dtype", list(FLOATS), ids=str)


def members_and_base(
    rule: Rule, rng: np.random.Generator, dtype: Dtype, shape: tuple[int, ...] = (40,)
) -> tuple[Array, Array]:
    """Members that each changed some entries of the base."""
    stack = drawn(rule, rng, shape)
    base = np.abs(stack[0] - 0.5) if rule.domain == "non-negative" else stack[0] - 0.5
    stack = np.where(rng.random(stack.shape) < 0.4, base, stack)
    return round_to_dtype(stack, dtype), round_to_dtype(np.asarray(base), dtype)


@each_rule
@each_dtype
def test_members_that_equal_the_base_are_a_fixed_point(
    rule: Rule, dtype: Dtype, rng: np.random.Generator
) -> None:
    _, base = members_and_base(rule, rng, dtype)
    stack = np.array([base] * (rule.n_members or 5))
    cases = [None, weights_for(rule)]
    if rule.signed:
        cases.append(weights_for(rule, signed=True))
    if rule.signed and rule.weight_sum_matters:
        cases.append(np.array([1.0, -1.0, 0.5, -0.5, 0.0])[: len(stack)])
    for weights in cases:
        near(rule(stack, weights, base=base), base, ulps=4 if dtype.itemsize > 4 else 0)


@each_variant
def test_members_that_equal_the_base_are_a_fixed_point_of_each_variant(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    _, base = members_and_base(rule, rng, np.dtype(np.float32), (6, 7))
    stack = np.array([base] * (rule.n_members or 5))
    found = rule(stack, weights_for(rule), base=base, **params)
    assert found.tobytes() == base.tobytes()


@each_rule
@each_dtype
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_the_result_has_the_dtype_and_shape_of_a_member(
    rule: Rule, dtype: Dtype, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    stack, base = members_and_base(rule, rng, dtype, shape)
    for other in (base, base.astype(np.float16)):
        result = rule(stack, weights_for(rule), base=other)
        assert (result.dtype, result.shape) == (dtype, shape)


def cuts_of(rule: Rule, shape: tuple[int, ...]) -> list[int]:
    """Places where a tensor may be divided: at multiples, and between whole units."""
    size = math.prod(shape)
    return [*range(0, size, rule.block_size(Position("", shape), {})), size]


@pytest.mark.parametrize(
    ("dtype", "is_default"),
    [(np.float64, True), (ml_dtypes.bfloat16, True), (np.float32, False)],
)
@each_rule
def test_any_division_into_blocks_gives_the_same_bytes(
    rule: Rule, dtype: Any, is_default: bool, rng: np.random.Generator
) -> None:
    *_, params = [{}] if is_default else variants(rule)
    shape = (20, 30) if rule.unit in WHOLE else (500, 137)
    assert rule.unit in WHOLE or math.prod(shape) > BLOCK
    stack, base = members_and_base(rule, rng, np.dtype(dtype), shape)
    stack[:, 400:] = base[400:]  # so that the blocks differ in their statistics
    weights, state = weights_for(rule), None
    whole = rule(stack, weights, base=base, **params)
    stack, base = stack.reshape(len(stack), -1), base.reshape(-1)
    place = Position("", shape)
    for entry in rule.needed_passes(params):
        total = None
        for a, b in pairwise(cuts_of(rule, shape)):
            part = rule.partial_statistics(
                entry,
                stack[:, a:b],
                weights,
                base[a:b],
                params,
                position=place.advanced(a),
                state=state,
            )
            total = add_statistics(total, part)
        assert total is not None
        state = rule.compute_state(
            entry, total, weights, params, position=place, state=state
        )
    cuts = cuts_of(rule, shape)
    if rule.unit not in WHOLE:
        unit = shape[1] if rule.unit == "row" else 1
        inner = rng.integers(0, base.size // unit, 9) * unit
        cuts = np.unique([*cuts, unit, 8 * unit, *inner]).tolist()
    pieces = [
        rule.combine(
            stack[:, a:b],
            weights,
            whole.dtype,
            params=params,
            base=base[a:b],
            state=state,
            position=place.advanced(a),
        )
        for a, b in pairwise(cuts)
    ]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@each_variant
def test_members_without_weight_do_not_count(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    if rule.n_members is not None:
        pytest.skip("takes a fixed number of members")
    stack, base = members_and_base(rule, rng, np.dtype(np.float64), (8, 5))
    weights = np.array([0.1, 0.0, 0.3, 0.0, 0.3])
    found = rule(stack, weights, base=base, **params)
    if "seed" not in rule.params:  # masks depend on the place among the members
        counted = rule(stack[weights > 0], weights[weights > 0], base=base, **params)
        near(found, counted)
    # A sum with products of 0, as in the samples, is NaN.
    stack[weights == 0] = np.nan if rule.name in RULES else 1e6
    assert rule(stack, weights, base=base, **params).tobytes() == found.tobytes()


@each_variant
def test_the_order_of_members_does_not_matter_where_symmetric(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    if not rule.symmetric:
        pytest.skip("the order matters")
    stack, base = members_and_base(rule, rng, np.dtype(np.float64), (8, 5))
    weights = weights_for(rule)
    expected = rule(stack, weights, base=base, **params)
    result = rule(stack[::-1], weights[::-1], base=base, **params)
    # Singular vectors carry the rounding errors of a sum further.
    near(result, expected, ulps=64 if rule.unit in WHOLE else 4)


@pytest.mark.parametrize(
    "rule",
    [*(r for r in RULES.values() if r.needs_moments is None), *SAMPLES],
    ids=lambda rule: rule.name,
)
def test_weights_that_sum_to_zero_are_refused_unless_their_sum_matters(
    rule: Rule, rng: np.random.Generator
) -> None:
    stack, base = members_and_base(rule, rng, np.dtype(np.float64))
    more: dict[str, Any] = {"base": base} if rule.needs_base else {}
    with pytest.raises(ValueError, match="must not sum to zero"):
        rule(stack, np.zeros(len(stack)), **more)
    if not rule.signed:
        return
    weights = np.array([1.0, -1.0, *[0.0] * (len(stack) - 2)])
    if rule.weight_sum_matters:
        assert rule(stack, weights, **more).shape == base.shape
    else:
        with pytest.raises(ValueError, match="must not sum to zero"):
            rule(stack, weights, **more)


@each_rule
def test_twice_the_weights_change_the_result_only_if_their_sum_matters(
    rule: Rule, rng: np.random.Generator
) -> None:
    stack, base = members_and_base(rule, rng, np.dtype(np.float64))
    weights = weights_for(rule)
    has_changed = False  # with any parameters: some methods normalize by default
    for params in variants(rule):
        once, twice = (
            rule(stack, w, base=base, **params) for w in (weights, 2 * weights)
        )
        has_changed |= not np.allclose(once, twice)
    assert has_changed is rule.weight_sum_matters


def test_the_difference_of_two_members_is_added_to_the_base() -> None:
    a, b, base = ({"w": np.array([x, 2.0])} for x in (3.0, 1.0, 10.0))
    how: Any = {"base": base, "rule": TASK_VECTORS, "weights": [1, -1]}
    assert average([a, b], **how)["w"].tolist() == [12, 2]
    assert not any("sum to" in note for note in plan([a, b], **how).notes)
    with pytest.raises(ValueError, match="weights of 'mean' must not sum to zero"):
        plan([a, b], weights=[1, -1])
