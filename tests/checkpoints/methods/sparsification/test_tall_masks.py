"""Consensus masks: against a loop, by hand, and as the authors' code computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import plan
from ensembles.checkpoints.methods import consensus, task_arithmetic, ties
from ensembles.dtypes import FLOATS, round_to_dtype
from tests.checkpoints.methods.sparsification.trimmed import BASE, MEMBERS
from tests.rules.test_rules import near


def looped(
    members: list[list[float]], base: list[float], weights: list[float]
) -> list[float]:
    """Result of the default parameters, one element after the other."""
    merged = []
    for origin, *column in zip(base, *members, strict=True):
        total = sum(w * (x - origin) for w, x in zip(weights, column, strict=True))
        masks = [
            abs(x - origin) > 0.4 * abs(origin + total - x)
            for w, x in zip(weights, column, strict=True)
            if w
        ]
        merged.append(origin + total if sum(masks) >= 2 else origin)
    return merged


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_the_sum_is_added_where_two_masks_agree(
    dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    base, *members = round_to_dtype(rng.normal(size=(5, 500)), dtype)
    stack, weights = np.array(members), [1.0, 0.5, 0.0, -0.25]
    merged = consensus(stack, weights, base=base)
    wide = [row.astype(np.float64).tolist() for row in (base, *members)]
    expected = np.array(looped(wide[1:], wide[0], weights))
    near(merged, round_to_dtype(expected, dtype), ulps=1)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (
            {"selectivity": 0.4, "scale": 0.5},
            [1.1, -2.25, 0.5, 3, -0.325, -1, 1.55, 4.425, -2.65, 0.3],
        ),
        (
            {"selectivity": 1.0, "scale": 0.5},
            [1.1, -2, 0.5, 3, -0.325, -1, 1.55, 4.425, -3, 0.3],
        ),
    ],
    ids=str,
)
def test_the_authors_consensus_task_arithmetic_is_reproduced(
    params: dict[str, Any], expected: list[float]
) -> None:
    # nik-dim/tall_masks, method "consensus" with prun_thre_k=2 and one lambda for all
    # tasks, in float64.
    merged = consensus(MEMBERS, base=BASE, **params)
    np.testing.assert_allclose(merged, expected, rtol=1e-14)


def test_the_authors_consensus_ties_is_reproduced_with_one_entry_more() -> None:
    # The same with use_ties and the share 0.4, which keeps five of ten entries. The
    # first and the last entry are zero sums, in which the majority of signs elects the
    # negative one there: 0.1 and -0.35.
    merged = consensus(MEMBERS, base=BASE, density=0.5, sign="mass")
    expected = [1, -2, 0.5, 3, -1.5, -1, 0.55, 5.5, -3, 0.25]
    np.testing.assert_allclose(merged, expected, rtol=1e-14)


def test_without_masks_it_is_task_arithmetic_or_ties() -> None:
    merged = consensus(MEMBERS, [1, 2, -1], base=BASE, n_agreeing=0)
    np.testing.assert_allclose(merged, task_arithmetic(MEMBERS, [1, 2, -1], base=BASE))
    params: dict[str, Any] = {"density": 0.3, "sign": "count"}
    merged = consensus(MEMBERS, base=BASE, n_agreeing=0, **params)
    expected = ties(MEMBERS, base=BASE, normalize=False, **params)
    np.testing.assert_allclose(merged, expected)


def test_numbers_that_are_not_finite_never_disappear() -> None:
    stack = np.array([[np.nan, np.inf, 1.0], [0.0, 0, 1]])
    merged = consensus(stack, base=np.zeros(3))
    np.testing.assert_array_equal(merged, [np.nan, np.nan, 2])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_agreeing": 3}, "an integer from 0 to the number of members, 2, found 3"),
        (
            {"n_agreeing": True},
            "an integer from 0 to the number of members, 2, found T",
        ),
        ({"n_agreeing": 1.5}, "n_agreeing of 'consensus' must be an integer"),
        ({"selectivity": -1}, "selectivity of 'consensus' must be .* at least 0"),
        ({"density": 0}, "density must be above 0"),
        ({"sign": "sum"}, "sign must be one of mass"),
        ({"scope": "all"}, "scope of 'consensus' must be one of"),
        ({"scale": np.nan}, "scale of 'consensus' must be a finite number"),
    ],
    ids=str,
)
def test_parameters_are_checked_before_anything_is_read(
    params: dict[str, Any], message: str
) -> None:
    states = [{"w": np.ones(3)}, {"w": np.zeros(3)}]
    with pytest.raises(ValueError, match=message):
        plan(states, base={"w": np.ones(3)}, rule="consensus", rule_params=params)
