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
def test_optima_of_classes_are_no_worse_than_what_scipy_climbs_to(
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
def test_optima_of_values_are_no_worse_than_what_scipy_climbs_to(
    scoring: Any, kind: str, weighting: str
) -> None:
    for seed, n_members in ((0, 6), (1, 1), (2, 9)):
        held = values_held(seed, n_members, 250, 1, kind, weighting)
        fast, plain = both(held, scoring)
        best, reached = plain(fast.optimum()), climbed(plain, n_members)
        assert best >= reached - 1e-9 * (1 + abs(reached))


@pytest.mark.parametrize("scoring", SMOOTH)
def test_no_member_pulls_away_from_an_optimum(scoring: str) -> None:
    fast, _ = both(values_held(3, 12, 400, 1, "plain", "any"), scoring)
    weights = fast.optimum()
    slopes = fast.gradient(weights)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert slopes.max() - weights @ slopes <= 1e-9


@pytest.mark.parametrize("scoring", [None, *SMOOTH])
def test_gradients_are_the_slopes_that_differences_find(scoring: Any) -> None:
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
def test_a_member_that_diverged_does_not_spoil_the_others(
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


def test_members_without_an_error_share_the_weight() -> None:
    held = values_held(3, 3, 30, 1, "plain", "none")
    stack = np.array([held.y, held.y, held.y + 1])[:, :, None]
    fast, _ = both(held._replace(stacks=[stack]), None)
    assert fast.optimum().tolist() == [0.5, 0.5, 0.0]


def test_a_perfect_mean_has_no_slope() -> None:
    held = values_held(3, 1, 30, 1, "plain", "none")
    held = held._replace(stacks=[np.asarray(held.y)[None, :, None]])
    fast, _ = both(held, "neg_root_mean_squared_error")
    assert fast.gradient(np.ones(1)).tolist() == [0.0]
    assert fast.optimum().tolist() == [1.0]


def mixture_gap(entries: Float64, shares: Float64) -> tuple[float, Float64]:
    weights = mixture_weights(entries, shares, floor=FLOOR)
    raised = np.maximum(entries, FLOOR, dtype=np.float64)
    return float((raised @ (shares / (weights @ raised))).max()) - 1, weights


@pytest.mark.parametrize("n_members", [1, 2, 30, 150])
def test_slopes_at_the_best_mixture_prove_that_it_is(
    n_members: int, rng: np.random.Generator
) -> None:
    entries = rng.beta(2, 1 + rng.random((n_members, 1)), (n_members, 3000))
    for shares in (np.full(3000, 1 / 3000), rng.dirichlet(np.ones(3000))):
        gap, weights = mixture_gap(entries, shares)
        assert gap <= 1e-8
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_a_mixture_by_hand() -> None:
    # Two members, each sure of its own rows and of nothing else: shares of the rows.
    entries = np.array([[1.0, 0, 0, 0], [0, 1.0, 1.0, 1.0]])
    weights = mixture_weights(entries, np.full(4, 0.25), floor=FLOOR)
    np.testing.assert_allclose(weights, [0.25, 0.75], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 5e-324, 1.0])
def test_a_mixture_of_members_alike_is_one_of_them(value: float) -> None:
    gap, weights = mixture_gap(np.full((70, 5), value), np.full(5, 0.2))
    assert gap <= 1e-9
    assert weights.sum() == pytest.approx(1)


def test_a_mixture_of_rare_certainty_is_found(rng: np.random.Generator) -> None:
    # A member that is right nearly nowhere, but alone there, gets its share.
    entries = np.full((3, 10_000), 1e-9)
    entries[0], entries[0, :7] = 0.9, 0.0
    entries[1, :7] = 1.0
    gap, weights = mixture_gap(entries, np.full(10_000, 1e-4))
    assert gap <= 1e-8
    assert weights[1] == pytest.approx(7e-4, rel=1e-2)


def test_members_that_were_let_go_come_back() -> None:
    # A hundred members, each needed for its own three rows and for as much.
    entries = np.where(np.arange(300) // 3 == np.arange(100)[:, None], 0.9, 0.001)
    gap, weights = mixture_gap(entries, np.full(300, 1 / 300))
    assert gap <= 1e-8
    np.testing.assert_allclose(weights, 0.01, atol=1e-6)


@pytest.mark.parametrize("share", [1e-4, 1e-7, 1e-9])
def test_a_row_that_hardly_counts_gets_its_share(share: float) -> None:
    entries = np.array([[0.9, 0.0], [0.0, 1.0], [0.5, 0.0]])
    gap, weights = mixture_gap(entries, np.array([1 - share, share]))
    assert gap <= 1e-8
    assert weights[1] == pytest.approx(share, rel=1e-2)


def test_convex_takes_the_optimum_and_records_it() -> None:
    fast, plain = both(classes_held(5, 6, 300, 3, "plain", "none"), None)
    history: list[Trial] = []
    weights = convex(6, fast, record=history.append)
    np.testing.assert_array_equal(weights, fast.optimum() / fast.optimum().sum())
    assert [trial.score for trial in history] == [plain(weights)]
