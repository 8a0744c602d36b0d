"""Weights that scores know to be the best, against other ways to find them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from ensembles._typing import Float64
from ensembles.predictions.metrics.log_loss import FLOOR
from ensembles.predictions.metrics.mixture_weights import mixture_weights
from ensembles.selection import convex
from ensembles.selection.score import Trial
from tests.predictions.held_out import both, classes_held, values_held

SMOOTH = ["neg_mean_squared_error", "neg_root_mean_squared_error", "r2"]


def climbed(score: Any, n_members: int) -> float:
    """What scipy reaches, by differences."""
    found = minimize(
        lambda w: -score(np.maximum(w, 0) / np.maximum(w, 0).sum()),
        np.full(n_members, 1 / n_members),
        method="SLSQP",
        bounds=[(0, 1)] * n_members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"maxiter": 500, "ftol": 1e-13},
    )
    return -float(found.fun)


@pytest.mark.parametrize("weighting", ["none", "any", "zeros"])
@pytest.mark.parametrize("kind", ["quarters", "odd", "plain", "float32"])
@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "neg_brier_score"])
def test_classification_optima_are_at_least_as_good_as_those_of_scipy(
    scoring: Any, kind: str, weighting: str
) -> None:
    for seed, n_members in ((0, 6), (1, 1), (2, 9)):
        held = classes_held(seed, n_members, 250, 3, kind, weighting)
        fast, plain = both(held, scoring)
        best = plain(fast.optimum())
        assert best >= climbed(plain, n_members) - 1e-7


@pytest.mark.parametrize("weighting", ["none", "any"])
@pytest.mark.parametrize("kind", ["whole", "odd", "plain", "float32"])
@pytest.mark.parametrize("scoring", SMOOTH)
def test_regression_optima_are_at_least_as_good_as_those_of_scipy(
    scoring: Any, kind: str, weighting: str
) -> None:
    for seed, n_members in ((0, 6), (1, 1), (2, 9)):
        held = values_held(seed, n_members, 250, 1, kind, weighting)
        fast, plain = both(held, scoring)
        best, reached = plain(fast.optimum()), climbed(plain, n_members)
        assert best >= reached - 1e-9 * (1 + abs(reached))


@pytest.mark.parametrize("scoring", SMOOTH)
def test_no_member_has_a_larger_slope_at_an_optimum(scoring: str) -> None:
    fast, _ = both(values_held(3, 12, 400, 1, "plain", "any"), scoring)
    weights = fast.optimum()
    slopes = fast.gradient(weights)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert slopes.max() - weights @ slopes <= 1e-9


@pytest.mark.parametrize("scoring", [None, *SMOOTH])
def test_gradients_equal_finite_differences(scoring: Any) -> None:
    held = classes_held(3, 5, 300, 3, "float32", "any")
    if scoring is not None:
        held = values_held(3, 5, 300, 1, "plain", "any")
    fast, plain = both(held, scoring)
    weights, step = np.array([0.1, 0.2, 0.3, 0.15, 0.25]), 1e-6
    slopes = fast.gradient(weights)
    for towards in np.eye(5):
        ahead = plain((1 - step) * weights + step * towards)
        slope = (ahead - plain(weights)) / step
        assert slope == pytest.approx(slopes @ (towards - weights), abs=1e-4)


def exact_optimum(errors: Float64) -> tuple[float, Float64]:
    """The least mean square on the simplex, over all sets of members that count."""
    n_members, found = len(errors), [(np.inf, np.zeros(len(errors)))]
    for size in range(1, n_members + 1):
        for some in map(list, combinations(range(n_members), size)):
            first, rest = errors[some[0]], errors[some[1:]]
            shares = np.linalg.lstsq((first - rest).T, first)[0]
            weights = np.zeros(n_members)
            weights[some] = [1 - shares.sum(), *shares]
            if (weights >= 0).all():
                found.append((float(((weights @ errors) ** 2).mean()), weights))
    return min(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6, 1e8, 1e12])
def test_a_diverged_member_does_not_affect_the_other_weights(
    scale: float, rng: np.random.Generator
) -> None:
    held = values_held(3, 4, 400, 1, "plain", "none")
    errors = rng.normal(size=(4, 400)) + 0.5 * rng.normal(size=400)
    errors[1] *= 1.2
    errors[3] *= scale
    y = np.zeros(400)
    fast, _ = both(held._replace(stacks=[errors[:, :, None]], y=y), None)
    found, (least, expected) = fast.optimum(), exact_optimum(errors)
    assert found == pytest.approx(expected, abs=1e-6)
    assert ((found @ errors) ** 2).mean() <= least * (1 + 1e-9)


def test_members_without_errors_share_the_weight() -> None:
    held = values_held(3, 3, 30, 1, "plain", "none")
    stack = np.array([held.y, held.y, held.y + 1])[:, :, None]
    fast, _ = both(held._replace(stacks=[stack]), None)
    assert fast.optimum().tolist() == [0.5, 0.5, 0.0]


def test_the_gradient_of_a_perfect_mean_is_zero() -> None:
    held = values_held(3, 1, 30, 1, "plain", "none")
    held = held._replace(stacks=[np.asarray(held.y)[None, :, None]])
    fast, _ = both(held, "neg_root_mean_squared_error")
    assert fast.gradient(np.ones(1)).tolist() == [0.0]
    assert fast.optimum().tolist() == [1.0]


def mixture_gap(likelihoods: Float64, row_weights: Float64) -> tuple[float, Float64]:
    weights = mixture_weights(likelihoods, row_weights, floor=FLOOR)
    raised = np.maximum(likelihoods, FLOOR, dtype=np.float64)
    return float((raised @ (row_weights / (weights @ raised))).max()) - 1, weights


@pytest.mark.parametrize("n_members", [1, 2, 30, 150])
def test_slopes_at_the_optimal_mixture_are_at_most_one(
    n_members: int, rng: np.random.Generator
) -> None:
    likelihoods = rng.beta(2, 1 + rng.random((n_members, 1)), (n_members, 3000))
    for row_weights in (np.full(3000, 1 / 3000), rng.dirichlet(np.ones(3000))):
        gap, weights = mixture_gap(likelihoods, row_weights)
        assert gap <= 1e-8
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_a_mixture_by_hand() -> None:
    # Each row is predicted by one member: the weights are the fractions of the rows.
    likelihoods = np.array([[1.0, 0, 0, 0], [0, 1.0, 1.0, 1.0]])
    weights = mixture_weights(likelihoods, np.full(4, 0.25), floor=FLOOR)
    np.testing.assert_allclose(weights, [0.25, 0.75], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 5e-324, 1.0])
def test_a_mixture_of_identical_members_equals_one_member(value: float) -> None:
    gap, weights = mixture_gap(np.full((70, 5), value), np.full(5, 0.2))
    assert gap <= 1e-9
    assert weights.sum() == pytest.approx(1)


def test_a_member_that_is_rarely_right_alone_gets_its_weight(
    rng: np.random.Generator,
) -> None:
    # Only member 1 predicts the first 7 of 10,000 rows.
    likelihoods = np.full((3, 10_000), 1e-9)
    likelihoods[0], likelihoods[0, :7] = 0.9, 0.0
    likelihoods[1, :7] = 1.0
    gap, weights = mixture_gap(likelihoods, np.full(10_000, 1e-4))
    assert gap <= 1e-8
    assert weights[1] == pytest.approx(7e-4, rel=1e-2)


def test_members_removed_by_em_steps_can_return() -> None:
    # A hundred members, each of which alone predicts three rows.
    likelihoods = np.where(np.arange(300) // 3 == np.arange(100)[:, None], 0.9, 0.001)
    gap, weights = mixture_gap(likelihoods, np.full(300, 1 / 300))
    assert gap <= 1e-8
    np.testing.assert_allclose(weights, 0.01, atol=1e-6)


@pytest.mark.parametrize("share", [1e-4, 1e-7, 1e-9])
def test_a_row_of_tiny_weight_affects_the_mixture(share: float) -> None:
    likelihoods = np.array([[0.9, 0.0], [0.0, 1.0], [0.5, 0.0]])
    gap, weights = mixture_gap(likelihoods, np.array([1 - share, share]))
    assert gap <= 1e-8
    assert weights[1] == pytest.approx(share, rel=1e-2)


def test_convex_takes_the_optimum_and_records_it() -> None:
    fast, plain = both(classes_held(5, 6, 300, 3, "plain", "none"), None)
    history: list[Trial] = []
    weights = convex(6, fast, record=history.append)
    np.testing.assert_array_equal(weights, fast.optimum() / fast.optimum().sum())
    assert [trial.score for trial in history] == [plain(weights)]
