"""Loops behind fast scores, against NumPy; also as plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ensembles.predictions.metrics.accuracy_loops import (
    compute_margin_bounds,
    copy_margins,
    list_undecided,
    mark_correct,
    sum_correct,
    sum_correct_all_rows,
    sum_correct_cached,
)
from ensembles.predictions.metrics.log_loss_loops import (
    LANES,
    PIECE,
    gather_true_class,
    log_sums,
    weighted_log_sums,
)
from ensembles.predictions.metrics.roc_auc_loops import STEPS, count_pairs, pack_keys

FLOOR = 2.0**-52
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def probabilities(rng: np.random.Generator, shape: Any, dtype: Any) -> Any:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)


@dtypes
def test_gather_copies_the_probabilities_of_the_true_class(
    dtype: Any, rng: np.random.Generator
) -> None:
    stack = probabilities(rng, (3, 9, 4), dtype)
    stack[1, 2] *= 2
    codes, row_weights = rng.integers(4, size=20), rng.random(20)
    true_proba, excess = np.zeros((3, 20), dtype), np.zeros(3)
    max_deviation, min_proba = np.zeros((2, 20))
    for bounds in ((0, 5), (5, 9)):
        inputs = stack, *bounds, 11, codes, row_weights
        gather_true_class(*inputs, true_proba, excess, max_deviation, min_proba)
    rows = np.arange(9)
    true = stack[:, rows, codes[11:]]
    deviations = stack.astype(np.float64).sum(axis=2) - 1
    np.testing.assert_array_equal(true_proba[:, 11:], true)
    assert (true_proba[:, :11] == 0).all()
    np.testing.assert_allclose(excess, deviations @ row_weights[11:], atol=1e-12)
    np.testing.assert_allclose(
        max_deviation[11:], abs(deviations).max(axis=0), atol=1e-12
    )
    np.testing.assert_array_equal(min_proba[11:], true.min(axis=0))


@pytest.mark.parametrize("value", [-1e-9, math.nan])
def test_gather_detects_invalid_probabilities(value: float) -> None:
    stack = np.full((1, 2, 2), 0.5)
    stack[0, 1, 0] = value
    max_deviation = np.zeros(2)
    inputs = stack, 0, 2, 0, np.zeros(2, np.int64), np.ones(2)
    outputs = np.zeros((1, 2)), np.zeros(1), max_deviation, np.zeros(2)
    gather_true_class(*inputs, *outputs)
    assert max_deviation.tolist() == [0.0, math.inf]


@dtypes
@pytest.mark.parametrize("size", [1, LANES, PIECE + LANES + 5])
def test_sums_of_logarithms_have_only_rounding_errors(
    dtype: Any, size: int, rng: np.random.Generator
) -> None:
    true_proba = np.exp(rng.uniform(-60, 0, (3, size))).astype(dtype)
    true_proba[:, 0] = 0
    sums, members = rng.choice([0.0, 0.3, 47.0], size), np.array([2, 0])
    row_weights = rng.random(size)
    logs = np.log(np.maximum(sums + true_proba[members].astype(np.float64), FLOOR))
    out = np.empty(2)
    log_sums(true_proba, sums, FLOOR, members, out)
    exact = [math.fsum(row) for row in logs]
    np.testing.assert_allclose(out, exact, rtol=0, atol=4e-16 * abs(logs).sum() + 1e-13)
    weighted_log_sums(true_proba, sums, row_weights, FLOOR, members, out)
    exact = [math.fsum(row) for row in row_weights * logs]
    np.testing.assert_allclose(out, exact, rtol=0, atol=4e-16 * abs(logs).sum() + 1e-13)


def test_logarithms_are_accurate_to_the_last_digits(rng: np.random.Generator) -> None:
    near_one = 1 + np.array(
        [-1e-3, -1e-9, -(2.0**-53), 0, 2.0**-52, 1e-9, 0.4142, 0.4143]
    )
    for value in [FLOOR, *near_one, *np.exp(rng.uniform(-36, 9, 300))]:
        out = np.empty(1)
        arguments = np.array([[value]]), np.zeros(1), np.ones(1), FLOOR, np.array([0])
        weighted_log_sums(*arguments, out)
        assert abs(out[0] - math.log(value)) <= 4e-16 * abs(math.log(value))


def listed(
    stack: Any, codes: Any, sums: Any, row_weights: Any, slack: float
) -> tuple[Any, float]:
    n_rows, n_classes = sums.shape
    max_margins, min_margins = np.empty((2, n_rows, n_classes))
    outputs = max_margins, min_margins
    assert compute_margin_bounds(stack, codes, 0, n_rows, *outputs) == stack.max()
    margins = stack - stack[:, np.arange(n_rows), codes][:, :, None]
    np.testing.assert_array_equal(max_margins, margins.max(axis=0))
    np.testing.assert_array_equal(min_margins, margins.min(axis=0))
    rows, starts = np.empty(n_rows, np.int64), np.empty(n_rows + 1, np.int64)
    classes, leads = np.empty(sums.size, np.int64), np.empty(sums.size)
    inputs = sums, codes, row_weights, *outputs, slack
    n_listed, decided_correct = list_undecided(*inputs, rows, starts, classes, leads)
    end = starts[n_listed]
    undecided = rows[:n_listed], starts[: n_listed + 1], classes[:end], leads[:end]
    return undecided, decided_correct


@pytest.mark.parametrize("counted", [0.0, 1.0, 5.0])
def test_rows_are_correct_wrong_or_uncertain_by_their_margins(
    counted: float, rng: np.random.Generator
) -> None:
    n_rows, slack = 60, 1e-12
    stack = np.round(4 * probabilities(rng, (5, n_rows, 3), float)) / 4 + 0.125
    codes, row_weights = rng.integers(3, size=n_rows), rng.random(n_rows)
    sums = counted * stack[1]
    undecided, decided_correct = listed(stack, codes, sums, row_weights, slack)
    out, members = np.empty((2, 5)), np.arange(5)
    sum_correct(stack, codes, row_weights, members, *undecided, slack, out)

    totals = sums + stack
    indices = np.arange(n_rows)
    leads_of_classes = totals - totals[:, indices, codes][:, :, None]
    leads_of_classes[:, indices, codes] = -np.inf
    max_leads = leads_of_classes.max(axis=2)
    np.testing.assert_allclose(
        decided_correct + out[0], (max_leads < -slack) @ row_weights
    )
    np.testing.assert_allclose(out[1], (abs(max_leads) <= slack) @ row_weights)
    all_rows = np.empty((2, 5))
    sum_correct_all_rows(stack, codes, row_weights, members, sums, slack, all_rows)
    np.testing.assert_allclose(all_rows, [decided_correct + out[0], out[1]])

    rows, starts, classes, leads = undecided
    slots = rng.permutation(len(classes))
    pair_rows = np.repeat(rows, np.diff(starts))
    margins, cached = np.empty((len(classes), 5)), np.empty((2, 5))
    copy_margins(stack, codes, slots, pair_rows, classes, margins)
    sum_correct_cached(margins, slots, row_weights, rows, starts, leads, slack, cached)
    np.testing.assert_allclose(cached, out)
    correct, uncertain = np.empty((2, len(rows)), bool)
    for member in members:
        mark_correct(stack[member], codes, *undecided, slack, correct, uncertain)
        np.testing.assert_array_equal(correct, max_leads[member, rows] < -slack)
        np.testing.assert_array_equal(uncertain, abs(max_leads[member, rows]) <= slack)


def test_margin_bounds_detect_invalid_probabilities() -> None:
    outputs = np.empty((2, 1, 2))
    for row in ([0.5, -0.5], [math.nan, 1.0], [0.0, 0.0]):
        stack, codes = np.array([[row]]), np.zeros(1, np.int64)
        assert compute_margin_bounds(stack, codes, 0, 1, *outputs) == math.inf


@dtypes
def test_ordered_and_uncertain_pairs_are_counted(
    dtype: Any, rng: np.random.Generator
) -> None:
    n_rows = 80
    proba = probabilities(rng, (n_rows, 2), dtype)
    proba[:40] = np.round(proba[:40] * 4) / 4 + 0.125
    sums, labels = probabilities(rng, (n_rows, 2), float), rng.integers(2, size=n_rows)
    sums[:20], labels[:2] = [1.0, 1.0], [0, 1]
    keys = np.empty(n_rows, np.uint32)
    pack_keys(sums, proba, labels, keys)
    total = sums + proba
    mean_proba = total[:, 1] / total.sum(axis=1)
    np.testing.assert_array_equal(keys >> 1, np.floor(mean_proba * STEPS))
    np.testing.assert_array_equal(keys & 1, labels)
    keys.sort()
    ordered, uncertain = count_pairs(keys, 1)
    gaps = mean_proba[labels == 1][:, None] - mean_proba[labels == 0]
    n_certain = (gaps > 2 / STEPS).sum()
    assert uncertain == (abs(gaps) <= 2 / STEPS).sum()
    assert ordered == 2 * n_certain + uncertain
    assert uncertain > 0


def test_a_probability_of_one_fits_into_a_key() -> None:
    keys = np.empty(1, np.uint32)
    pack_keys(np.zeros((1, 2)), np.array([[0.0, 1.0]]), np.array([1]), keys)
    assert keys[0] == 2**32 - 1
