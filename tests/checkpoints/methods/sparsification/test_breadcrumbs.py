"""Breadcrumbs: against a sort in float64, and as published code computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import plan
from ensembles.checkpoints.methods import breadcrumbs_linear, breadcrumbs_ties
from ensembles.dtypes import FLOATS, round_to_dtype
from tests.checkpoints.methods.sparsification.trimmed import (
    BASE,
    MEMBERS,
    WEIGHTS,
    elected_mean,
    trimmed,
)
from tests.rules.test_rules import near


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_the_differences_between_two_shares_are_merged(
    dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    base, *members = round_to_dtype(rng.normal(size=(4, 30, 20)), dtype)
    weights, stack = [1.0, 0.5, -0.25], np.array(members)
    wide = base.astype(np.float64)
    for density, gamma in ((0.09, 0.01), (0.5, 0.25), (0.3, 0.0)):
        params: dict[str, Any] = {"density": density, "gamma": gamma, "scale": 0.5}
        outliers = int(gamma * 600)
        deltas = trimmed(stack.astype(np.float64) - wide, int(density * 600), outliers)
        linear = breadcrumbs_linear(stack, weights, base=base, **params)
        total = sum(w * d for w, d in zip(weights, deltas, strict=True))
        expected = wide + 0.5 * np.reshape(total, base.shape)
        near(linear, round_to_dtype(expected, dtype), ulps=1)
        elected = breadcrumbs_ties(stack, weights, base=base, **params)
        expected = wide + 0.5 * elected_mean(deltas, weights).reshape(base.shape)
        near(elected, round_to_dtype(expected, dtype), ulps=1)


def test_mergekit_is_reproduced() -> None:
    # mergekit 0.1.5, methods "breadcrumbs" and "breadcrumbs_ties" of the registry on
    # float64 tensors, with these weights, density 0.4, gamma 0.2, normalize: false.
    params: dict[str, Any] = {"density": 0.4, "gamma": 0.2, "normalize": False}
    np.testing.assert_allclose(
        breadcrumbs_linear(MEMBERS, WEIGHTS, base=BASE, **params),
        [1, -2, -0.45, 3.15, -0.7, -1, 1.775, 5.075, -2, -0.35],
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        breadcrumbs_ties(MEMBERS, WEIGHTS, base=BASE, zero_sum="positive", **params),
        [1, -2, -1, 3.15, -0.7, -1, 1.5, 5.4, -2, -0.95],
        rtol=1e-14,
    )


def test_the_authors_code_masks_each_row_of_a_tensor() -> None:
    # rezazzr/breadcrumbs, TaskVectorMiddleKeep(top_k_keep=0.4, top_k_remove=0.2) keeps
    # two entries of each row of five, after it removes one.
    member = np.array([[5.0, 4, 3, 2, 1], [-10.0, -20, -30, -40, -50]])
    kept = [[0, 4, 3, 0, 0], [0, 0, -30, -40, 0]]
    params: dict[str, Any] = {"density": 0.4, "gamma": 0.2}
    rows = [breadcrumbs_linear(r[None], base=np.zeros(5), **params) for r in member]
    assert np.array(rows).tolist() == kept
    whole = breadcrumbs_linear(member[None], base=np.zeros((2, 5)), **params)
    assert whole.tolist() == [[5, 0, 0, 0, 0], [-10, -20, -30, 0, 0]]


def test_nothing_is_dropped_with_density_one_and_without_outliers(
    rng: np.random.Generator,
) -> None:
    stack, base = rng.normal(size=(2, 20)), rng.normal(size=20)
    params: dict[str, Any] = {"density": 1, "gamma": 0}
    assert breadcrumbs_linear.needed_passes(params) == ()
    assert len(breadcrumbs_linear.needed_passes({"density": 0.5, "gamma": 0})) == 2
    merged = breadcrumbs_linear(stack, base=base, normalize=True, **params)
    np.testing.assert_allclose(merged, stack.mean(axis=0))


def test_infinite_entries_are_outliers_and_nan_is_kept() -> None:
    member = np.array([np.inf, np.nan, 3.0, 2, 1])
    merged = breadcrumbs_linear(member[None], base=np.zeros(5), density=0.4, gamma=0.4)
    np.testing.assert_array_equal(merged, [0, np.nan, 3, 2, 0])


def test_shares_that_sum_to_one_drop_nothing_at_the_other_end() -> None:
    member = np.arange(1.0, 101)
    merged = breadcrumbs_linear(
        member[None], base=np.zeros(100), density=0.93, gamma=0.07
    )
    assert merged.tolist() == [*range(1, 94), *[0] * 7]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"density": 1}, "must sum to at most 1, .* found density=1 and gamma=0.01"),
        ({"density": [0.5, 0.995]}, "must sum to at most 1"),
        ({"gamma": -0.1}, "gamma must be a number from 0 to 1, .* found -0.1"),
        ({"density": 0}, "density must be above 0"),
        ({"scope": "row"}, "scope of 'breadcrumbs_.*' must be one of 'tensor'"),
        ({"scale": None}, "scale of 'breadcrumbs_.*' must be a finite number"),
        ({"normalize": 3}, "normalize .*must be"),
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", ["breadcrumbs_linear", "breadcrumbs_ties"])
def test_parameters_are_checked_before_anything_is_read(
    rule: str, params: dict[str, Any], message: str
) -> None:
    states = [{"w": np.ones(3)}, {"w": np.zeros(3)}]
    with pytest.raises(ValueError, match=message):
        plan(states, base={"w": np.ones(3)}, rule=rule, rule_params=params)
