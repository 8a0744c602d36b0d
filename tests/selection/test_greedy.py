"""Members chosen one by one: rounds, sorted starts, bags, and soups."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles._typing import Float64
from ensembles.selection import greedy, greedy_soup
from ensembles.selection.score import CachedScore, Score, Trial
from tests.selection.scores import Distance, Gaining, Table, cases, distances


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


def test_greedy_ends_when_nothing_has_helped_for_as_long_as_it_is_reported() -> None:
    score = Distance(np.array([[0.0], [4.0], [10.0]]), np.array([5.2]))
    history: list[Trial] = []
    # The second round does not help, the third does; after the fifth nothing does.
    weights = greedy(3, score, patience=2, record=history.append)
    assert weights.tolist() == [0, 0.8, 0.2]
    assert len(history) == 7
    assert greedy(3, score, patience=1).tolist() == [0, 1, 0]
    assert greedy(3, score, n_rounds=5, patience=50).tolist() == [0, 0.8, 0.2]
    with pytest.raises(ValueError, match="patience=0"):
        greedy(3, score, patience=0)


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
    best = int(np.argmax(CachedScore(score).member_scores(5)))
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
    own = CachedScore(score).member_scores(6)
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
    asked: list[Float64] = []

    def asking(weights: Float64) -> float:
        asked.append(weights)
        return score(weights)

    greedy(4, asking, n_rounds=2, n_bags=1, fraction=0.3)
    assert len(asked) == 4 + 1  # in the second round, the pair alone is new


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
def test_parameters_out_of_range_are_reported(params: dict[str, Any]) -> None:
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
