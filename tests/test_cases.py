"""One case worked out by hand for all that is registered; without one, the suite fails.

Rules: members, weights, what must come out. Selections: a score of the weights, what
must come out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin, sqrt
from typing import Any, NamedTuple

import numpy as np
import pytest

from ensembles.rules import RULES
from ensembles.selection import SELECTIONS
from ensembles.weighting import Floats

Numbers = list[float]


class RuleCase(NamedTuple):
    members: list[Numbers]
    weights: Numbers
    result: Numbers


class SelectionCase(NamedTuple):
    n_members: int
    score: Callable[[Floats], float]
    weights: Numbers


RULE_CASES = {
    # (3 * 1 + 1 * 5) / 4 and (3 * -2 + 1 * 2) / 4
    "mean": RuleCase([[1, -2], [5, 2]], [3, 1], [2, -1]),
    # Half of 4 is 2. First: 1 counts 1, 4 makes it 2, half exactly: (4 + 9) / 2.
    # Second: 0 counts 2, half exactly: (0 + 3) / 2.
    "median": RuleCase([[9, 0], [1, 3], [4, 7]], [2, 1, 1], [6.5, 1.5]),
    # The third member does not count.
    "minimum": RuleCase([[3, -1], [2, 5], [0, -9]], [1, 2, 0], [2, -1]),
    "maximum": RuleCase([[3, -1], [2, 5], [9, 9]], [1, 2, 0], [3, 5]),
    # A right angle; a third of the way is 30 degrees.
    "slerp": RuleCase([[1, 0], [0, 1]], [2, 1], [cos(pi / 6), sin(pi / 6)]),
    # Half-way of a right angle is 45 degrees; the mean length is (1 + 3) / 2.
    "karcher_mean": RuleCase([[1, 0], [0, 3]], [1, 1], [sqrt(2), sqrt(2)]),
}

SELECTION_CASES = {
    # Alone the second is best: 0 against -1. Then (0, 1, 0) and (1, 1, 0) / 2 score
    # 0 and -0.25, so nothing added to it helps.
    "greedy": SelectionCase(3, lambda w: -float((w[0] + 2 * w[2]) ** 2), [0, 1, 0]),
    # Alone they score -4, -1, -4 (distance of the mean of -2, 1, 2 from 0, squared).
    # The second leads; with the first -0.25, kept; with the third -1/9, kept.
    "greedy_soup": SelectionCase(
        3, lambda w: -float((w @ [-2, 1, 2]) ** 2), [1 / 3, 1 / 3, 1 / 3]
    ),
    # The mean of 0 and 4 is nearest to 1 where the second counts a quarter.
    "convex": SelectionCase(2, lambda w: -float((4 * w[1] - 1) ** 2), [0.75, 0.25]),
}


def test_everything_registered_has_a_case() -> None:
    assert RULE_CASES.keys() == RULES.keys()
    assert SELECTION_CASES.keys() == SELECTIONS.keys()


@pytest.mark.parametrize("name", RULE_CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rules_give_what_was_worked_out(
    name: str, dtype: type[np.floating[Any]]
) -> None:
    case = RULE_CASES[name]
    result = RULES[name](np.array(case.members, dtype), case.weights)
    slack = 2 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(result, case.result, rtol=slack)
    assert result.dtype == dtype


@pytest.mark.parametrize("name", SELECTION_CASES)
def test_selections_choose_what_was_worked_out(name: str) -> None:
    case = SELECTION_CASES[name]
    weights = SELECTIONS[name](case.n_members, case.score)
    np.testing.assert_allclose(weights, case.weights, atol=1e-6)
