"""RAM: against a loop in float64, by hand, as its authors and mergekit compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints import average
from ensembles.checkpoints.methods import ram
from ensembles.dtypes import FLOATS, round_to_dtype

BASE = [1.0, -2.0, 0.5, 4.0, -1.0, 3.0]
CHANGES = [
    [0.3, -0.2, 0.0, 0.1, 0.05, -0.4],
    [0.1, 0.0, 0.2, 0.0, 0.0, -0.2],
    [0.0, 0.1, 0.0, 0.0, 0.5, 0.3],
]


def merged(
    stack: Float64, weights: Any, base: Float64, factors: Any, epsilon: float
) -> Float64:
    """The formula, entry by entry."""
    found = []
    for origin, *column in np.array([base, *stack]).T.tolist():
        changes = [
            (w, factor, x - origin)
            for w, factor, x in zip(weights, factors, column, strict=True)
            if abs(x - origin) > epsilon and w
        ]
        if len(changes) == 1:
            [(w, factor, delta)] = changes
            found.append(origin + factor * w * delta)
        else:
            total = sum(w * delta for w, _, delta in changes)
            found.append(origin + total / max(len(changes), 1))
    return np.array(found)


def sparse(rng: np.random.Generator, n_members: int, size: int) -> Float64:
    base = rng.normal(size=size)
    changes = rng.normal(size=(n_members, size)) * (rng.random((n_members, size)) < 0.3)
    return np.array([base, *(base + changes)])


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, -2.0, 0.0]], ids=str)
def test_it_is_its_formula_rounded_once(
    dtype: np.dtype[Any], weights: list[float], rng: np.random.Generator
) -> None:
    stack = round_to_dtype(sparse(rng, 3, 500), dtype)
    wide = stack.astype(np.float64)
    expected = merged(wide[1:], weights, wide[0], [1.0] * 3, 1e-5)
    found = ram(stack[1:], weights, base=stack[0])
    assert found.tobytes() == round_to_dtype(expected, dtype).tobytes()


def test_unique_changes_are_rescaled_by_their_overlap(rng: np.random.Generator) -> None:
    stack, weights = sparse(rng, 3, 2_000), [1.0, 0.5, -1.0]
    is_active = np.abs(stack[1:] - stack[0]) > 0.1
    n_active = is_active.sum(axis=0)
    unique = (is_active & (n_active == 1)).sum(axis=1)
    shared = (is_active & (n_active > 1)).sum(axis=1)
    factors = 1 + 0.2 * np.minimum(shared / unique, 0.9)
    expected = merged(stack[1:], weights, stack[0], factors, 0.1)
    found = ram(stack[1:], weights, base=stack[0], r=0.2, alpha=0.9, epsilon=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-15)


def test_members_without_weight_do_not_count_as_overlap() -> None:
    stack = [[2.0, 2.0], [2.0, 1.0], [1.0, 2.0]]
    expected = ram(stack[:2], base=[1.0, 1.0], r=0.5)
    assert ram(stack, [1, 1, 0], base=[1.0, 1.0], r=0.5).tolist() == expected.tolist()
    # The first has one shared and one unique change: 1 + 0.5 * 1.
    assert expected.tolist() == [2, 2.5]


def test_mergekit_computes_the_same() -> None:
    # mergekit 0.1.5, merge_tensors([base, *members], NAME, base_index=0, parameters=
    # {"epsilon": 0.07, ...}) in float64: "ram", and "ramplus_tl" with its defaults and
    # with r=0.5, alpha=3.0; its factors are rounded to float32.
    stack = np.array(BASE) + CHANGES
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({}, [1.2, -2.05, 0.7, 4.1, -0.5, 2.9]),
        ({"r": 0.1, "alpha": 0.2}, [1.2, -2.05, 0.704, 4.102, -0.49, 2.9]),
        ({"r": 0.5, "alpha": 3.0}, [1.2, -2.05, 0.9, 4.25, 0.0, 2.9]),
    ]
    for params, expected in cases:
        found = ram(stack, base=BASE, epsilon=0.07, scope="tensor", **params)
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)


def test_the_code_of_the_authors_computes_the_same() -> None:
    # agentic_reinforcement_merge_rescale_v2 of xiangchi-yuan/mrl with threshold=0.07
    # and r=1.2, of the two tensors below.
    base = {"a": np.array(BASE[:3]), "b": np.array(BASE[3:])}
    members = [
        {"a": base["a"] + change[:3], "b": base["b"] + change[3:]} for change in CHANGES
    ]
    how: Any = {"rule": "ram", "rule_params": {"epsilon": 0.07, "r": 1.2 - 1}}
    found = average(members, base=base, **how)
    np.testing.assert_allclose(found["a"], [1.2, -2.05, 0.74], rtol=1e-14)
    np.testing.assert_allclose(found["b"], [4.12, -0.4, 2.9], rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "value"), [("epsilon", -1), ("r", np.nan), ("alpha", -0.1), ("scope", "x")]
)
def test_parameters_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} of 'ram' must be"):
        ram([[1.0]], base=[0.0], **{"r": 0.1, name: value})


def test_a_nan_is_a_change() -> None:
    found = ram([[np.nan, 1.0], [1.0, 2.0]], base=[1.0, 1.0])
    np.testing.assert_array_equal(found, [np.nan, 2])
