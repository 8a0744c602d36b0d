from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles._typing import Float64
from ensembles.selection.score import CachedScore
from ensembles.weights import check_weights


def test_no_weights_count_every_member_once() -> None:
    assert check_weights(None, 3).tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8))
def test_weights_come_back_as_given(weights: list[float]) -> None:
    checked = check_weights(weights, len(weights))
    assert checked.dtype == np.float64
    assert checked.tolist() == weights


def test_the_result_is_a_copy() -> None:
    weights = np.array([1.0, 2.0])
    check_weights(weights, 2)[0] = 5
    assert weights.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("weights", [[1, 2], (True, 1), np.array([1, 2], np.float32)])
def test_any_real_numbers_are_taken(weights: Any) -> None:
    assert check_weights(weights, 2).dtype == np.float64


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], r"one number for each member: found 2 for 3 members$"),
        ([], r"one number for each member: found 0 for 3 members$"),
        ([[1, 2, 3]], r"a flat list, one number for each of 3 members, .*\(1, 3\)$"),
        (1.0, r"a flat list, .* found shape \(\)$"),
        ([[1], [1, 2]], r"^weights must be a flat list of numbers: "),
        ([1, math.nan, 1], r"^weights must be finite: weights\[1\] is nan$"),
        ([1, 1, -math.inf], r"^weights must be finite: weights\[2\] is -inf$"),
        ([1, 1, -0.5], r"^weights must not be negative: weights\[2\] is -0.5$"),
        ([0, 0, 0], r"^weights must not sum to zero: found \[0.0, 0.0, 0.0\]$"),
        ([1e308, 1e308, 0], r"^weights must have a sum that float64 can hold; divide"),
    ],
)
def test_wrong_weights_are_told_what_and_where(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_weights(weights, 3)


@pytest.mark.parametrize(
    "weights", [["1", "2"], [None, 1], [1j, 1], [Fraction(1, 2), 1], {"a": 1}]
)
def test_what_is_no_real_number_is_a_type_error(weights: Any) -> None:
    with pytest.raises(TypeError, match="weights must be real numbers, found"):
        check_weights(weights, 2)


def test_the_message_names_the_rule() -> None:
    message = (
        r"^weights of 'geometric_mean' must not be negative: weights\[2\] is -0.5$"
    )
    with pytest.raises(ValueError, match=message):
        check_weights([1, 1, -0.5], 3, rule="geometric_mean")


def test_no_members_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one member, found 0"):
        check_weights(None, 0)


def test_negative_zero_is_not_negative() -> None:
    assert check_weights([1, -0.0], 2).tolist() == [1.0, 0.0]


def test_signed_weights_may_be_negative() -> None:
    assert check_weights([2, -1], 2, signed=True).tolist() == [2.0, -1.0]


@pytest.mark.parametrize(
    "weights", [[1, -1], [0.1, 0.2, -0.3], [1e16, 1, -1e16], [1e-300, -1e-300]]
)
def test_a_sum_that_cancels_to_rounding_is_zero(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="must not sum to zero"):
        check_weights(weights, len(weights), signed=True)


def test_weights_whose_sum_matters_may_sum_to_zero_but_not_all_be_zero() -> None:
    checked = check_weights([1, -1], 2, signed=True, weight_sum_matters=True)
    assert checked.tolist() == [1.0, -1.0]
    with pytest.raises(ValueError, match="must not sum to zero"):
        check_weights([0, 0], 2, signed=True, weight_sum_matters=True)


@pytest.mark.parametrize("weights", [[1, -1 + 1e-12], [5e-324], [1e308, -1e300]])
def test_a_small_sum_that_means_something_is_kept(weights: list[float]) -> None:
    assert check_weights(weights, len(weights), signed=True).tolist() == weights


def first_weight(weights: Float64) -> float:
    return float(weights[0])


class Offering:
    def __init__(self, gains: Any) -> None:
        self.offer = gains

    def __call__(self, weights: Float64) -> float:
        raise AssertionError("gains were offered")

    def gains(self, counts: Any, members: Any) -> Any:
        counts += 7  # a scorer may do as it likes with what it gets
        members += 7
        return self.offer


def test_gains_are_scores_after_one_more_of_each() -> None:
    counts = np.array([1, 2, 0])
    found = CachedScore(first_weight).scores_after_adding(counts, np.arange(3))
    assert found.tolist() == [2 / 4, 1 / 4, 1 / 4]


def test_gains_that_are_offered_are_taken_for_the_members_asked() -> None:
    counts = np.array([1, 2, 0])
    found = CachedScore(Offering([7, 5])).scores_after_adding(counts, np.array([2, 0]))
    assert found.tolist() == [7.0, 5.0]
    assert counts.tolist() == [1, 2, 0]


def test_gains_of_another_number_of_members_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"one score for each of 3 members, .* \(2,\)"):
        CachedScore(Offering([1, 2])).member_scores(3)


def test_gains_that_are_not_finite_name_the_weights() -> None:
    message = r"^score.gains must be finite: nan at weights \{0: 0.5, 2: 0.5\}, by"
    with pytest.raises(ValueError, match=message):
        CachedScore(Offering([1, 2, math.nan])).scores_after_adding(
            np.array([1, 0, 0]), np.arange(3)
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_names_the_weights(value: float) -> None:
    message = rf"^score must be finite: {value} at weights \{{1: 0.25, 3: 0.75\}}, by"
    with pytest.raises(ValueError, match=message):
        CachedScore(lambda weights: value)(np.array([0, 0.25, 0, 0.75]))


def test_own_scores_are_of_each_member_alone() -> None:
    assert CachedScore(first_weight).member_scores(3).tolist() == [1.0, 0.0, 0.0]


def test_own_scores_of_nobody_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one member, found 0"):
        CachedScore(first_weight).member_scores(0)
