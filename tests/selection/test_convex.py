"""Shares that climb to the optimum, and how near to it greedy rounds come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from ensembles._typing import Float64
from ensembles.selection import convex, greedy, greedy_soup
from ensembles.selection.score import Trial
from tests.selection.scores import (
    Distance,
    DistanceWithGradient,
    cases,
    distances,
    log_loss_of,
)

both = pytest.mark.parametrize("kind", [Distance, DistanceWithGradient])


@both
def test_convex_finds_the_shares_that_meet_a_target(kind: type[Distance]) -> None:
    shares = np.array([0.2, 0.5, 0.3])
    stack = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 3]])
    found = convex(3, kind(stack, shares @ stack))
    np.testing.assert_allclose(found, shares, atol=2e-6)


@both
def test_convex_leaves_out_who_does_not_help(kind: type[Distance]) -> None:
    # From 0, 1 and 5 towards -1: the member at 0 alone. Towards 0.25 in the plane of
    # (0, 0), (1, 0) and (5, 9): the third stays out, 3/4 and 1/4 for the others.
    assert convex(3, kind(np.array([[0.0], [1], [5]]), np.array([-1.0])))[0] == 1
    stack = np.array([[0.0, 0], [1, 0], [5, 9]])
    found = convex(3, kind(stack, np.array([0.25, 0])))
    np.testing.assert_allclose(found, [0.75, 0.25, 0], atol=2e-6)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_convex_does_not_depend_on_the_unit_of_the_score(unit: float) -> None:
    score = Distance(np.eye(3), np.array([0.2, 0.5, 0.3]))
    found = convex(3, lambda weights: unit * score(weights))
    np.testing.assert_allclose(found, [0.2, 0.5, 0.3], atol=1e-5)


@given(case=cases)
@settings(max_examples=30, deadline=None)
def test_differences_climb_as_high_as_the_gradient(case: tuple[int, int]) -> None:
    n_members, seed = case
    score = distances(n_members, seed)
    plain = Distance(score.stack, score.target)
    by_gradient = score(convex(n_members, score))
    assert plain(convex(n_members, plain)) == pytest.approx(by_gradient, abs=1e-7)


@given(case=cases)
@settings(max_examples=30, deadline=None)
def test_no_member_pulls_away_from_the_optimum(case: tuple[int, int]) -> None:
    # Optimal exactly if no slope towards a member is above that of staying here.
    n_members, seed = case
    score = distances(n_members, seed)
    weights = convex(n_members, score)
    slopes = score.gradient(weights)
    assert slopes.max() - slopes @ weights <= 1e-4


@given(case=cases)
@settings(max_examples=30, deadline=None)
def test_convex_is_no_worse_than_equal_weights(case: tuple[int, int]) -> None:
    n_members, seed = case
    score = distances(n_members, seed)
    assert score(convex(n_members, score)) >= score(np.full(n_members, 1 / n_members))


def test_a_score_in_steps_still_gives_the_best_of_single_and_equal() -> None:
    assert convex(3, lambda weights: float(weights[1] == 1)).tolist() == [0, 1, 0]
    equal = convex(4, lambda weights: float(weights.max() <= 0.25))
    assert equal.tolist() == [0.25] * 4


@pytest.mark.parametrize(("n_members", "seed"), [(5, 7), (12, 47), (25, 51)])
def test_every_weight_that_convex_scores_is_on_the_simplex(
    n_members: int, seed: int
) -> None:
    # In the last two the minimiser misses a sum of 1 by some 1e-10.
    history: list[Trial] = []
    convex(n_members, distances(n_members, seed), record=history.append)
    for trial in history:
        assert (trial.weights >= 0).all()
        assert trial.weights.sum() == pytest.approx(1, abs=1e-15)


def test_convex_finds_the_optimum_among_many_members() -> None:
    rng = np.random.default_rng(0)
    score = log_loss_of(
        np.clip(rng.beta(2, 1 + rng.random((150, 1)), (150, 400)), 0.01, 1)
    )
    slopes = score.gradient(convex(150, score))
    assert slopes.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("gradient", [[1.0], [math.nan, 1.0]])
def test_a_wrong_gradient_is_an_error(gradient: list[float]) -> None:
    class Wrong(Distance):
        def gradient(self, weights: Float64) -> list[float]:
            return gradient

    with pytest.raises(ValueError, match="must return 2 finite numbers"):
        convex(2, Wrong(np.eye(2), np.array([0.4, 0.6])))


@pytest.fixture(scope="module")
def digits() -> Float64:
    """Probabilities of the true class, (n_members, n_rows), out of fold."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:600], y[:600]
    members = [
        LogisticRegression(max_iter=2000, C=0.01),
        RandomForestClassifier(30, random_state=0),
        KNeighborsClassifier(15),
        GaussianNB(var_smoothing=1e-2),
    ]
    said = [
        cross_val_predict(member, X, y, cv=3, method="predict_proba")
        for member in members
    ]
    true = np.array([probabilities[np.arange(len(y)), y] for probabilities in said])
    return np.asarray(np.clip(true, 1e-6, 1))


def test_convex_reaches_the_fixed_point_of_em_on_digits(digits: Float64) -> None:
    score = log_loss_of(digits)
    mixture = np.full(len(digits), 1 / len(digits))
    for _ in range(5000):  # Dempster, Laird and Rubin (1977), mixture proportions
        mixture = mixture * score.gradient(mixture)
    np.testing.assert_allclose(convex(len(digits), score), mixture, atol=1e-4)
    assert score(convex(len(digits), score)) >= score(mixture) - 1e-10


def test_fifty_greedy_rounds_come_near_the_optimum_on_digits(digits: Float64) -> None:
    score = log_loss_of(digits)
    best = score(convex(len(digits), score))
    assert best - 1e-3 <= score(greedy(len(digits), score)) <= best + 1e-12
    assert score(greedy_soup(len(digits), score)) <= best + 1e-12


class Knowing(Distance):
    """A score that says where it is greatest, right or wrong."""

    def __init__(self, best: list[float]) -> None:
        super().__init__(np.eye(2), np.array([0.4, 0.6]))
        self.best = best

    def optimum(self) -> Float64:
        return np.array(self.best)


def test_convex_takes_an_optimum_that_is_offered() -> None:
    history: list[Trial] = []
    assert convex(2, Knowing([0.4, 0.6]), record=history.append).tolist() == [0.4, 0.6]
    assert [trial.weights.tolist() for trial in history] == [[0.4, 0.6]]


def test_an_optimum_that_is_none_loses_against_equal_weights() -> None:
    assert convex(2, Knowing([1, 0])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("best", [[1.0], [0.7, 0.6], [1.5, -0.5], [math.nan, 1.0]])
def test_an_optimum_off_the_simplex_is_an_error(best: list[float]) -> None:
    with pytest.raises(
        ValueError, match="must return 2 non-negative weights with sum 1"
    ):
        convex(2, Knowing(best))
