from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Counts, Float64
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import SelectionResult, resolve_weights, run_selection


class Nearness:
    """Minus the distance of the mean of 0, 4 and 10 from a target."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.asked: list[list[float]] = []

    def __call__(self, weights: Float64) -> float:
        self.asked.append(weights.tolist())
        return -abs(float(weights @ [0, 4, 10]) - self.target)


class Offering(Nearness):
    def gradient(self, weights: Float64) -> Float64:
        value = float(weights @ [0, 4, 10])
        return np.asarray(np.sign(self.target - value) * np.array([0.0, 4, 10]))

    def gains(self, counts: Counts, members: Counts) -> Float64:
        more = (counts + np.eye(3)[members]) / (counts.sum() + 1)
        return np.asarray(-abs(more @ np.array([0.0, 4, 10]) - self.target))


def test_no_weights_and_no_score_are_equal_weights_alone() -> None:
    chosen = resolve_weights(None, 3)
    assert chosen.weights.tolist() == [1, 1, 1]
    assert (chosen.scores, chosen.best_index, chosen.score) == (None, None, None)
    assert chosen.history == ()
    assert chosen.counts is not None
    assert chosen.counts.tolist() == [1, 1, 1]


def test_weights_come_back_as_given_beside_the_best_single_member() -> None:
    chosen = resolve_weights([2, 0, 2], 3, Nearness(5))
    assert chosen.weights.tolist() == [2, 0, 2]
    assert chosen.score == 0
    assert chosen.scores is not None
    assert chosen.scores.tolist() == [-5, -1, -5]
    assert chosen.best_index == 1
    assert chosen.history == ()


def test_given_weights_that_lose_are_reported_without_a_warning() -> None:
    chosen = resolve_weights(None, 3, Nearness(4))
    assert chosen.score == pytest.approx(-2 / 3)
    assert chosen.scores is not None
    assert chosen.scores[chosen.best_index] == 0


def test_given_weights_are_checked_in_the_name_of_the_rule() -> None:
    assert resolve_weights([2, -1], 2, signed=True).weights.tolist() == [2, -1]
    with pytest.raises(ValueError, match=r"^weights of 'median' must not be negative"):
        resolve_weights([2, -1], 2, rule="median")


def test_signed_weights_are_scored_by_their_shares() -> None:
    assert resolve_weights([0, 6, -2], 3, Nearness(1), signed=True).score == 0


@pytest.mark.parametrize("name", ["convex", "greedy", "greedy_soup", "top_k"])
def test_a_selection_chooses_by_score(name: str) -> None:
    chosen = resolve_weights(name, 3, Nearness(7))
    assert chosen.weights.sum() == pytest.approx(1)
    assert chosen.score == pytest.approx(0, abs=1e-6)
    assert chosen.best_index == 1
    assert chosen.history
    assert max(trial.score for trial in chosen.history) == chosen.score


def test_parameters_reach_the_selection() -> None:
    assert len(resolve_weights("greedy", 3, Nearness(7), n_rounds=4).history) == 4


def test_each_members_own_score_is_asked_once() -> None:
    score = Nearness(7)
    resolve_weights("greedy_soup", 3, score)
    alone = [weights for weights in score.asked if max(weights) == 1]
    assert alone == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_gains_that_a_score_offers_reach_the_selection() -> None:
    score = Offering(7)
    chosen = resolve_weights("greedy", 3, score)
    assert (
        chosen.weights.tolist()
        == resolve_weights("greedy", 3, Nearness(7)).weights.tolist()
    )
    assert score.asked == [[0, 1, 0], [0, 0.5, 0.5]]  # the best member, the result


def test_a_gradient_that_a_score_offers_reaches_the_selection() -> None:
    score = Offering(7)
    chosen = resolve_weights("convex", 3, score)
    # Those recorded, equal weights, the best member and the result: no differences.
    assert len(score.asked) <= len(chosen.history) + 3


@pytest.mark.parametrize("name", sorted(SELECTIONS.keys() - {"best", "wise_ft"}))
def test_a_selection_that_does_not_beat_the_best_member_warns(name: str) -> None:
    message = (
        f"^selection '{name}' did not beat the best .* member 1 alone -?0; use that"
    )
    with pytest.warns(UserWarning, match=message):
        chosen = resolve_weights(name, 3, Nearness(4))
    assert chosen.score == 0


def test_a_quiet_selection_leaves_it_to_others_to_say_so() -> None:
    chosen = run_selection(SELECTIONS["greedy"], 3, Nearness(4))  # a warning would fail
    assert (chosen.score, chosen.best_index) == (0, 1)


def test_the_best_member_is_what_was_asked_for() -> None:
    chosen = resolve_weights("best", 3, Nearness(4))  # a warning would be an error
    assert chosen.weights.tolist() == [0, 1, 0]


def test_bags_that_lose_to_the_best_member_say_so() -> None:
    message = r"score -\d.*, member 1 alone -?0; use that"
    with pytest.warns(UserWarning, match=message):
        resolve_weights("greedy", 3, Nearness(4), n_bags=3, fraction=0.3)


def test_the_warning_points_at_who_called_fit() -> None:
    def fit() -> SelectionResult:
        return resolve_weights("greedy", 3, Nearness(4))

    with pytest.warns(UserWarning, match="did not beat the best member") as caught:
        fit()
    assert caught[0].filename == __file__


def test_a_single_member_is_no_reason_to_warn() -> None:
    assert resolve_weights("greedy", 1, lambda weights: 1.0).weights.tolist() == [1]


def test_a_selection_without_a_score_is_an_error() -> None:
    message = "^weights='greedy' must have a score to choose by, found none; pass data"
    with pytest.raises(ValueError, match=message):
        resolve_weights("greedy", 3)


def test_an_unknown_selection_is_offered_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown selection 'gredy'; did you mean"):
        resolve_weights("gredy", 3, Nearness(5))


@pytest.mark.parametrize("weights", [None, [1, 1, 1]])
def test_parameters_without_a_selection_are_an_error(weights: Any) -> None:
    message = "^parameters n_rounds, n_bags must go with a selection's name"
    with pytest.raises(TypeError, match=message):
        resolve_weights(weights, 3, Nearness(5), n_rounds=3, n_bags=1)


def test_given_weights_with_a_score_that_is_not_finite_are_an_error() -> None:
    with pytest.raises(ValueError, match="score must be finite: nan at weights"):
        resolve_weights(
            None, 2, lambda weights: float("nan") if weights[0] == 0.5 else 1.0
        )


class Counting(Nearness):
    """Takes counts, and keeps them."""

    def __init__(self, target: float) -> None:
        super().__init__(target)
        self.counted: list[list[int]] = []

    def score_counts(self, counts: Counts) -> float:
        self.counted.append(counts.tolist())
        return self(counts / counts.sum())


@pytest.mark.parametrize("name", ["greedy", "greedy_soup", "top_k", "best"])
def test_counts_reach_a_score_that_takes_them_and_the_result(name: str) -> None:
    score = Counting(7)
    chosen = run_selection(SELECTIONS[name], 3, score)
    assert chosen.counts is not None
    assert chosen.counts.dtype == np.int64
    np.testing.assert_array_equal(chosen.weights, chosen.counts / chosen.counts.sum())
    assert len(score.counted) == len(score.asked)
    for trial in chosen.history:
        assert trial.counts is not None
        np.testing.assert_array_equal(trial.weights, trial.counts / trial.counts.sum())


@pytest.mark.parametrize("name", ["convex", "optuna"])
def test_weights_that_no_counts_lead_to_have_none(name: str) -> None:
    assert run_selection(SELECTIONS[name], 3, Counting(7)).counts is None


def test_each_set_of_weights_is_scored_once() -> None:
    score = Nearness(7)
    run_selection(SELECTIONS["greedy"], 3, score)
    assert len(score.asked) == len({tuple(weights) for weights in score.asked})


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("top_k", {"p": 3}, r"selection 'top_k' has no parameter 'p' \(known: k\)$"),
        (
            "best",
            {"k": 3},
            r"no parameter 'k' \(known: none\); it is a parameter of top_k$",
        ),
    ],
)
def test_unknown_parameters_say_who_has_them(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_weights(name, 3, Nearness(7), **params)


def test_a_base_is_scored_beside_the_members() -> None:
    def score(weights: Float64) -> float:
        return -abs(float(weights @ [4, 8] + 5 * (1 - weights.sum())) - 5)

    with pytest.warns(
        UserWarning, match="beat the best member: .*, the base alone -?0"
    ):
        chosen = resolve_weights("wise_ft", 2, score)
    assert chosen.base_score == chosen.best_score == 0
    assert chosen.best_index == 0
    assert chosen.weights.tolist() == [0, 0]
