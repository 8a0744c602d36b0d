"""Loops behind fast scores, against what they say in numpy; also as plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ensembles.predictions.metrics.accuracy_loops import (
    contenders,
    count,
    count_all,
    count_moved,
    fill,
    reach,
    tell,
)
from ensembles.predictions.metrics.log_loss_loops import (
    LANES,
    PIECE,
    gather,
    log_sums,
    weighted_log_sums,
)
from ensembles.predictions.metrics.roc_auc_loops import STEPS, count_pairs, pack

FLOOR = 2.0**-52
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def probabilities(rng: np.random.Generator, shape: Any, dtype: Any) -> Any:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)


@dtypes
def test_gather_takes_what_is_said_of_the_true_class(
    dtype: Any, rng: np.random.Generator
) -> None:
    stack = probabilities(rng, (3, 9, 4), dtype)
    stack[1, 2] *= 2
    codes, shares = rng.integers(4, size=20), rng.random(20)
    entries, drift = np.zeros((3, 20), dtype), np.zeros(3)
    farthest, least = np.zeros((2, 20))
    for part in ((0, 5), (5, 9)):
        gather(stack, *part, 11, codes, shares, entries, drift, farthest, least)
    rows = np.arange(9)
    true = stack[:, rows, codes[11:]]
    beyond = stack.astype(np.float64).sum(axis=2) - 1
    np.testing.assert_array_equal(entries[:, 11:], true)
    assert (entries[:, :11] == 0).all()
    np.testing.assert_allclose(drift, beyond @ shares[11:], atol=1e-12)
    np.testing.assert_allclose(farthest[11:], abs(beyond).max(axis=0), atol=1e-12)
    np.testing.assert_array_equal(least[11:], true.min(axis=0))


@pytest.mark.parametrize("value", [-1e-9, math.nan])
def test_gather_finds_what_is_no_probability(value: float) -> None:
    stack = np.full((1, 2, 2), 0.5)
    stack[0, 1, 0] = value
    farthest = np.zeros(2)
    known = np.zeros(2, np.int64), np.ones(2), np.zeros((1, 2)), np.zeros(1), farthest
    gather(stack, 0, 2, 0, *known, np.zeros(2))
    assert farthest.tolist() == [0.0, math.inf]


@dtypes
@pytest.mark.parametrize("size", [1, LANES, PIECE + LANES + 5])
def test_sums_of_logarithms_are_off_by_rounding_alone(
    dtype: Any, size: int, rng: np.random.Generator
) -> None:
    entries = np.exp(rng.uniform(-60, 0, (3, size))).astype(dtype)
    entries[:, 0] = 0
    sums, members = rng.choice([0.0, 0.3, 47.0], size), np.array([2, 0])
    shares = rng.random(size)
    logs = np.log(np.maximum(sums + entries[members].astype(np.float64), FLOOR))
    out = np.empty(2)
    log_sums(entries, sums, FLOOR, members, out)
    exact = [math.fsum(row) for row in logs]
    np.testing.assert_allclose(out, exact, rtol=0, atol=4e-16 * abs(logs).sum() + 1e-13)
    weighted_log_sums(entries, sums, shares, FLOOR, members, out)
    exact = [math.fsum(row) for row in shares * logs]
    np.testing.assert_allclose(out, exact, rtol=0, atol=4e-16 * abs(logs).sum() + 1e-13)


def test_logarithms_are_right_to_the_last_places(rng: np.random.Generator) -> None:
    near = 1 + np.array([-1e-3, -1e-9, -(2.0**-53), 0, 2.0**-52, 1e-9, 0.4142, 0.4143])
    for value in [FLOOR, *near, *np.exp(rng.uniform(-36, 9, 300))]:
        out = np.empty(1)
        known = np.array([[value]]), np.zeros(1), np.ones(1), FLOOR, np.array([0])
        weighted_log_sums(*known, out)
        assert abs(out[0] - math.log(value)) <= 4e-16 * abs(math.log(value))


def listed(
    stack: Any, codes: Any, sums: Any, shares: Any, slack: float
) -> tuple[Any, float]:
    n_rows, n_classes = sums.shape
    most, least = np.empty((2, n_rows, n_classes))
    assert reach(stack, codes, 0, n_rows, most, least) == stack.max()
    moves = stack - stack[:, np.arange(n_rows), codes][:, :, None]
    np.testing.assert_array_equal(most, moves.max(axis=0))
    np.testing.assert_array_equal(least, moves.min(axis=0))
    rows, starts = np.empty(n_rows, np.int64), np.empty(n_rows + 1, np.int64)
    classes, leads = np.empty(sums.size, np.int64), np.empty(sums.size)
    n_listed, right = contenders(
        sums, codes, shares, most, least, slack, rows, starts, classes, leads
    )
    end = starts[n_listed]
    return (rows[:n_listed], starts[: n_listed + 1], classes[:end], leads[:end]), right


@pytest.mark.parametrize("counted", [0.0, 1.0, 5.0])
def test_margins_tell_what_is_right_wrong_and_in_doubt(
    counted: float, rng: np.random.Generator
) -> None:
    n_rows, slack = 60, 1e-12
    stack = np.round(4 * probabilities(rng, (5, n_rows, 3), float)) / 4 + 0.125
    codes, shares = rng.integers(3, size=n_rows), rng.random(n_rows)
    sums = counted * stack[1]
    known, right = listed(stack, codes, sums, shares, slack)
    out, members = np.empty((2, 5)), np.arange(5)
    count(stack, codes, shares, members, *known, slack, out)

    totals = sums + stack
    at = np.arange(n_rows)
    ahead = totals - totals[:, at, codes][:, :, None]
    ahead[:, at, codes] = -np.inf
    worst = ahead.max(axis=2)
    np.testing.assert_allclose(right + out[0], (worst < -slack) @ shares)
    np.testing.assert_allclose(out[1], (abs(worst) <= slack) @ shares)
    every = np.empty((2, 5))
    count_all(stack, codes, shares, members, sums, slack, every)
    np.testing.assert_allclose(every, [right + out[0], out[1]])

    rows, starts, classes, leads = known
    places, spread_rows = (
        rng.permutation(len(classes)),
        np.repeat(rows, np.diff(starts)),
    )
    moves, moved = np.empty((len(classes), 5)), np.empty((2, 5))
    fill(stack, codes, places, spread_rows, classes, moves)
    count_moved(moves, places, shares, rows, starts, leads, slack, moved)
    np.testing.assert_allclose(moved, out)
    surely, unsure = np.empty((2, len(rows)), bool)
    for member in members:
        tell(stack[member], codes, *known, slack, surely, unsure)
        np.testing.assert_array_equal(surely, worst[member, rows] < -slack)
        np.testing.assert_array_equal(unsure, abs(worst[member, rows]) <= slack)


def test_reach_finds_what_is_no_probability() -> None:
    most, least = np.empty((2, 1, 2))
    for row in ([0.5, -0.5], [math.nan, 1.0], [0.0, 0.0]):
        stack, codes = np.array([[row]]), np.zeros(1, np.int64)
        assert reach(stack, codes, 0, 1, most, least) == math.inf


@dtypes
def test_pairs_are_counted_with_their_doubt(
    dtype: Any, rng: np.random.Generator
) -> None:
    n_rows = 80
    said = probabilities(rng, (n_rows, 2), dtype)
    said[:40] = np.round(said[:40] * 4) / 4 + 0.125
    sums, labels = probabilities(rng, (n_rows, 2), float), rng.integers(2, size=n_rows)
    sums[:20], labels[:2] = [1.0, 1.0], [0, 1]
    keys = np.empty(n_rows, np.uint32)
    pack(sums, said, labels, keys)
    both = sums + said
    shares = both[:, 1] / both.sum(axis=1)
    np.testing.assert_array_equal(keys >> 1, np.floor(shares * STEPS))
    np.testing.assert_array_equal(keys & 1, labels)
    keys.sort()
    right, doubt = count_pairs(keys, 1)
    gaps = shares[labels == 1][:, None] - shares[labels == 0]
    sure = (gaps > 2 / STEPS).sum()
    assert doubt == (abs(gaps) <= 2 / STEPS).sum()
    assert right == 2 * sure + doubt
    assert doubt > 0


def test_a_share_of_one_has_a_place() -> None:
    keys = np.empty(1, np.uint32)
    pack(np.zeros((1, 2)), np.array([[0.0, 1.0]]), np.array([1]), keys)
    assert keys[0] == 2**32 - 1
