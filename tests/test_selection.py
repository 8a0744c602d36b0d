from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from ensembles.selection import SELECTIONS, convex, greedy, greedy_soup
from ensembles.weighting import Counts, Floats, Score, Trial, own_scores


class Distance:
    """Minus the squared distance of the mean of the members from a target."""

    def __init__(self, stack: Floats, target: Floats) -> None:
        self.stack, self.target = stack, target

    def __call__(self, weights: Floats) -> float:
        return -float(np.sum((weights @ self.stack - self.target) ** 2))


class DistanceWithGradient(Distance):
    def gradient(self, weights: Floats) -> Floats:
        gradient = -2 * self.stack @ (weights @ self.stack - self.target)
        return np.asarray(gradient)


class Gaining:
    """A score that offers gains, and counts how often it is asked."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.n_gains = 0

    def __call__(self, weights: Floats) -> float:
        return self.score(weights)

    def gains(self, counts: Counts) -> Floats:
        self.n_gains += 1
        more = counts + np.eye(len(counts), dtype=np.int64)
        return np.array([self.score(row / row.sum()) for row in more])


class Table:
    """Scores written down by hand; weights that are not in the table fail."""

    def __init__(self, scores: dict[tuple[float, ...], float]) -> None:
        self.scores = scores
        self.asked: list[tuple[float, ...]] = []

    def __call__(self, weights: Floats) -> float:
        self.asked.append(tuple(weights.tolist()))
        return self.scores[self.asked[-1]]


def distances(n_members: int, seed: int) -> DistanceWithGradient:
    rng = np.random.default_rng(seed)
    return DistanceWithGradient(rng.normal(size=(n_members, 3)), rng.normal(size=3))


def log_loss_of(stack: Floats) -> Any:
    """Minus the log-loss, by the members' probabilities of what is true."""

    class LogLoss:
        def __call__(self, weights: Floats) -> float:
            return float(np.log(weights @ stack).mean())

        def gradient(self, weights: Floats) -> Floats:
            return np.asarray((stack / (weights @ stack)).mean(axis=1))

    return LogLoss()


cases = st.tuples(st.integers(1, 6), st.integers(0, 2**32 - 1))
names = pytest.mark.parametrize("name", sorted(SELECTIONS))


@names
@given(case=cases)
@settings(max_examples=25, deadline=None)
def test_weights_are_on_the_simplex_and_no_worse_than_the_best_member(
    name: str, case: tuple[int, int]
) -> None:
    n_members, seed = case
    score = distances(n_members, seed)
    weights = SELECTIONS[name](n_members, score)
    assert weights.shape == (n_members,)
    assert weights.dtype == np.float64
    assert (weights >= 0).all()
    assert math.fsum(weights) == pytest.approx(1, abs=1e-15)
    assert score(weights) >= own_scores(n_members, score).max()


@names
@given(case=cases)
@settings(max_examples=15, deadline=None)
def test_the_order_of_members_does_not_matter(name: str, case: tuple[int, int]) -> None:
    n_members, seed = case
    score = distances(n_members, seed)
    order = np.random.default_rng(seed).permutation(n_members)
    moved = DistanceWithGradient(score.stack[order], score.target)
    found = SELECTIONS[name](n_members, moved)
    expected = SELECTIONS[name](n_members, score)
    # The optimum over many members in three dimensions is no single point.
    assert moved(found) == pytest.approx(score(expected), abs=1e-9)
    if name != "convex":
        np.testing.assert_array_equal(found, expected[order])


@names
def test_one_member_gets_everything(name: str) -> None:
    assert SELECTIONS[name](1, distances(1, 0)).tolist() == [1.0]


@names
def test_every_step_is_recorded_with_its_score(name: str) -> None:
    score = distances(4, 1)
    history: list[Trial] = []
    weights = SELECTIONS[name](4, score, record=history.append)
    assert history
    assert [trial.score for trial in history] == [
        pytest.approx(score(trial.weights), abs=1e-12) for trial in history
    ]
    best = max(trial.score for trial in history)
    assert score(weights) == pytest.approx(best, abs=1e-12)
    assert len({id(trial.weights) for trial in history}) == len(history)


@pytest.mark.parametrize("name", ["greedy", "greedy_soup"])
def test_the_first_of_many_equals_leads(name: str) -> None:
    # Numpy's default sort keeps the order of equals only up to sixteen of them.
    better = np.repeat([0.0, 1.0], 20)
    weights = SELECTIONS[name](40, lambda w: float(w.max() * (w @ better)))
    assert weights.tolist() == np.eye(40)[20].tolist()


@names
def test_members_alike_score_as_one(name: str) -> None:
    score = Distance(np.ones((3, 2)), np.zeros(2))
    assert score(SELECTIONS[name](3, score)) == pytest.approx(-2)


@names
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_scores_that_are_not_finite_are_an_error(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite: .* at weights \{0: 1.0\}"):
        SELECTIONS[name](2, lambda weights: value)


@names
def test_no_member_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="at least one member, found 0"):
        SELECTIONS[name](0, distances(1, 0))


def test_greedy_step_by_step() -> None:
    # Towards 5.2 from 0, 4 and 10. Sums: 4; 4 + 4 (means on offer 2, 4, 7); 8 + 10
    # (2.7, 4, 6); 18 + 4 (4.5, 5.5, 7); 22 + 4 (4.4, 5.2, 6.4); 26 + 4 (4.3, 5, 6).
    score = Distance(np.array([[0.0], [4.0], [10.0]]), np.array([5.2]))
    history: list[Trial] = []
    weights = greedy(3, score, n_rounds=6, record=history.append)
    counts = [[0, 1, 0], [0, 2, 0], [0, 2, 1], [0, 3, 1], [0, 4, 1], [0, 5, 1]]
    assert [trial.weights.tolist() for trial in history] == [
        [count / sum(row) for count in row] for row in counts
    ]
    scores = [trial.score for trial in history]
    assert scores == pytest.approx([-1.44, -1.44, -0.64, -0.09, 0, -0.04])
    assert weights.tolist() == [0, 0.8, 0.2]


def test_greedy_goes_on_past_a_round_that_loses_and_returns_the_best() -> None:
    score = Table(
        {
            (1, 0): 5,
            (0, 1): 4,
            (0.5, 0.5): 6,
            (2 / 3, 1 / 3): 3,
            (1 / 3, 2 / 3): 4,
            (0.25, 0.75): 7,
        }
    )
    history: list[Trial] = []
    assert greedy(2, score, n_rounds=4, record=history.append).tolist() == [0.25, 0.75]
    assert [trial.score for trial in history] == [5, 6, 4, 7]
    assert greedy(2, score, n_rounds=3).tolist() == [0.5, 0.5]


def test_greedy_keeps_the_earliest_of_equal_rounds() -> None:
    score: Score = Table({(0, 1): 5, (1, 0): 4, (0.5, 0.5): 5})
    assert greedy(2, score, n_rounds=2).tolist() == [0, 1]
    assert greedy(3, lambda weights: 1.0, n_rounds=4).tolist() == [1, 0, 0]
    score = Distance(np.array([[0.0], [4.0], [2.0]]), np.array([2.0]))
    assert greedy(3, score).tolist() == [0, 0, 1]


def test_greedy_gives_ties_to_the_smallest_index() -> None:
    # After 0 both 1 and 2 lift the score alike, and 1 is taken.
    score = Distance(np.array([[1.0], [4.0], [4.0]]), np.array([2.5]))
    assert greedy(3, score, n_rounds=2).tolist() == [0.5, 0.5, 0]


def test_one_round_of_greedy_is_the_best_single_member() -> None:
    score = distances(5, 3)
    best = int(np.argmax(own_scores(5, score)))
    assert greedy(5, score, n_rounds=1).tolist() == np.eye(5)[best].tolist()


@given(
    case=cases,
    params=st.fixed_dictionaries(
        {"n_init": st.integers(1, 7), "n_bags": st.integers(0, 3)}
    ),
)
@settings(max_examples=40, deadline=None)
def test_gains_give_the_same_sequence(
    case: tuple[int, int], params: dict[str, int]
) -> None:
    n_members, seed = case
    score = distances(n_members, seed)
    plain: list[Trial] = []
    gained: list[Trial] = []
    expected = greedy(n_members, score, n_rounds=9, record=plain.append, **params)
    offering = Gaining(score)
    found = greedy(n_members, offering, n_rounds=9, record=gained.append, **params)
    assert found.tolist() == expected.tolist()
    assert [t.weights.tolist() for t in gained] == [t.weights.tolist() for t in plain]
    assert offering.n_gains == 1 + 8 * max(params["n_bags"], 1)


def test_sorted_initialisation_starts_from_the_best_that_score_best_together() -> None:
    third = 1 / 3
    score = Table(
        {
            (1, 0, 0): 1,
            (0, 1, 0): 3,
            (0, 0, 1): 2,
            (0, 0.5, 0.5): 5,
            (third, third, third): 4,
        }
    )
    history: list[Trial] = []
    weights = greedy(3, score, n_init=3, n_rounds=1, record=history.append)
    assert weights.tolist() == [0, 0.5, 0.5]
    assert [trial.score for trial in history] == [5]
    assert greedy(3, score, n_init=1, n_rounds=1).tolist() == [0, 1, 0]


def test_rounds_go_on_from_the_sorted_start() -> None:
    score = Distance(np.array([[0.0], [4.0], [10.0]]), np.array([5.0]))
    history: list[Trial] = []
    greedy(3, score, n_init=3, n_rounds=2, record=history.append)
    # In order 4, 0, 10 (own scores -1, -25, -25); all three make 14 / 3.
    assert history[0].weights.tolist() == [1 / 3, 1 / 3, 1 / 3]
    assert history[1].weights.tolist() == [0.25, 0.5, 0.25]


def test_bags_hold_their_share_and_their_weights_are_averaged() -> None:
    history: list[Trial] = []
    score = distances(6, 0)
    weights = greedy(6, score, n_rounds=1, n_bags=4, record=history.append)
    assert len(history) == 4
    np.testing.assert_allclose(weights, np.mean([t.weights for t in history], axis=0))
    own = own_scores(6, score)
    ranks = [int((own > t.score).sum()) for t in history]
    assert max(ranks) <= 3  # the best of three of six is fourth at worst
    assert len(set(ranks)) > 1


def test_a_bag_chooses_as_its_members_alone_would() -> None:
    score = distances(6, 5)
    found = greedy(6, score, n_bags=1, random_state=1)
    alone = []
    for bag in combinations(range(6), 3):
        weights = np.zeros(6)
        weights[list(bag)] = greedy(3, Distance(score.stack[list(bag)], score.target))
        alone.append(weights.tolist())
    assert found.tolist() in alone
    assert np.count_nonzero(found) > 1


def test_equal_members_of_a_bag_go_to_the_smallest_index() -> None:
    weights = greedy(4, lambda weights: 1.0, n_bags=20)
    assert weights[3] == 0  # of two members, the last is never the smaller index


def test_bags_of_everyone_choose_as_no_bags_do() -> None:
    score = distances(5, 2)
    whole = greedy(5, score, n_bags=2, fraction=1)
    np.testing.assert_array_equal(whole, greedy(5, score))


def test_members_outside_a_bag_are_not_asked_again() -> None:
    score = distances(4, 1)
    asked: list[Floats] = []

    def asking(weights: Floats) -> float:
        asked.append(weights)
        return score(weights)

    greedy(4, asking, n_rounds=2, n_bags=1, fraction=0.3)
    assert len(asked) == 4 + 2


def test_the_seed_draws_the_bags() -> None:
    score = distances(8, 4)
    drawn = [greedy(8, score, n_bags=3, random_state=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert drawn[0].tolist() != drawn[2].tolist()


@pytest.mark.parametrize(
    "params",
    [
        {"n_rounds": 0},
        {"n_init": 0},
        {"n_bags": -1},
        {"fraction": 0},
        {"fraction": 1.5},
        {"fraction": math.nan},
    ],
)
def test_parameters_out_of_range_are_told(params: dict[str, Any]) -> None:
    ((name, value),) = params.items()
    with pytest.raises(
        ValueError, match=f"must be at least 1, .* found .*{name}={value}"
    ):
        greedy(2, distances(2, 0), **params)


def test_greedy_soup_step_by_step() -> None:
    third = 1 / 3
    score = Table(
        {
            (1, 0, 0, 0): 0.70,
            (0, 1, 0, 0): 0.80,
            (0, 0, 1, 0): 0.60,
            (0, 0, 0, 1): 0.75,
            (0, 0.5, 0, 0.5): 0.79,  # worse: 3 is left out
            (0.5, 0.5, 0, 0): 0.80,  # no better: 0 stays
            (third, third, third, 0): 0.81,  # better: 2 stays
        }
    )
    history: list[Trial] = []
    weights = greedy_soup(4, score, record=history.append)
    assert weights.tolist() == [third, third, third, 0]
    assert [trial.score for trial in history] == [0.80, 0.79, 0.80, 0.81]
    assert len(score.asked) == 7


def test_greedy_soup_takes_members_of_equal_scores_in_their_order() -> None:
    score = Table({(1, 0): 1, (0, 1): 1, (0.5, 0.5): 0})
    assert greedy_soup(2, score).tolist() == [1, 0]


def test_greedy_soup_compares_with_the_soup_and_not_with_the_last_try() -> None:
    third = 1 / 3
    score = Table(
        {
            (1, 0, 0): 5,
            (0, 1, 0): 4,
            (0, 0, 1): 3,
            (0.5, 0.5, 0): 2,
            (0.5, 0, 0.5): 3,
            (third, third, third): 9,
        }
    )
    assert greedy_soup(3, score).tolist() == [1, 0, 0]


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
    for weights, _ in history:
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-15)


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
        def gradient(self, weights: Floats) -> list[float]:
            return gradient

    with pytest.raises(ValueError, match="must return 2 finite numbers"):
        convex(2, Wrong(np.eye(2), np.array([0.4, 0.6])))


@pytest.fixture(scope="module")
def digits() -> Floats:
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


def test_convex_reaches_the_fixed_point_of_em_on_digits(digits: Floats) -> None:
    score = log_loss_of(digits)
    mixture = np.full(len(digits), 1 / len(digits))
    for _ in range(5000):  # Dempster, Laird and Rubin (1977), mixture proportions
        mixture = mixture * score.gradient(mixture)
    np.testing.assert_allclose(convex(len(digits), score), mixture, atol=1e-4)
    assert score(convex(len(digits), score)) >= score(mixture) - 1e-10


def test_fifty_greedy_rounds_come_near_the_optimum_on_digits(digits: Floats) -> None:
    score = log_loss_of(digits)
    best = score(convex(len(digits), score))
    assert best - 1e-3 <= score(greedy(len(digits), score)) <= best + 1e-12
    assert score(greedy_soup(len(digits), score)) <= best + 1e-12
