"""One case worked out by hand for all that is registered; without one, the suite fails.

Rules, combiners and poolings: members, weights, what must come out. Selections: a score
of the weights, what must come out. Schedules: steps of checkpoints, their weights. Word
weightings: how often words are met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, exp, pi, sin, sqrt
from typing import Any, NamedTuple

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.runs.schedules.builtin import SCHEDULES
from ensembles.embeddings import POOLINGS, WEIGHTINGS
from ensembles.embeddings.weighting.builtin import WordFrequencies
from ensembles.predictions import COMBINERS
from ensembles.selection import SELECTIONS

Numbers = list[float]
Rows = list[Numbers]


class RuleCase(NamedTuple):
    members: Sequence[Any]
    weights: Numbers
    result: Sequence[Any]
    params: dict[str, Any] = {}  # noqa: RUF012  # never changed
    base: Sequence[Any] | None = None
    moments: list[Any] | None = None


class CombinerCase(NamedTuple):
    members: list[Rows]
    weights: Numbers
    result: Rows
    params: dict[str, Any] = {}  # noqa: RUF012  # never changed


class PoolingCase(NamedTuple):
    words: list[Numbers]
    weights: Numbers
    divisor: float
    result: Numbers
    params: dict[str, Any] = {}  # noqa: RUF012  # never changed


class WeightingCase(NamedTuple):
    frequencies: WordFrequencies
    params: dict[str, Any]
    weights: Numbers


class ScheduleCase(NamedTuple):
    positions: Numbers
    params: dict[str, Any]
    weights: Numbers


class SelectionCase(NamedTuple):
    n_members: int
    score: Callable[[Float64], float]
    weights: Numbers
    params: Callable[[], dict[str, Any]] = dict


RULE_CASES = {
    # (3 * 1 + 1 * 5) / 4 and (3 * -2 + 1 * 2) / 4
    "mean": RuleCase([[1, -2], [5, 2]], [3, 1], [2, -1]),
    # Half of 4 is 2. First: 1 counts 1, 4 makes it 2, half exactly: (4 + 9) / 2.
    # Second: 0 counts 2, half exactly: (0 + 3) / 2.
    "median": RuleCase([[9, 0], [1, 3], [4, 7]], [2, 1, 1], [6.5, 1.5]),
    # A fifth of 5 is 1: 4 - 1 are left. First, sorted 1, 4, 9 with weights 1, 2, 2:
    # 1 goes and half of 9's weight: (2 * 4 + 1 * 9) / 3. Second, sorted -1, 0, 6 with
    # weights 2, 2, 1: half of -1's goes, and 6: (1 * -1 + 2 * 0) / 3.
    "trimmed_mean": RuleCase([[9, -1], [4, 0], [1, 6]], [2, 2, 1], [17 / 3, -1 / 3]),
    # The cube root of 2 * 2 * 16, and of 27 * 27 * 0.
    "geometric_mean": RuleCase([[2, 27], [16, 0]], [2, 1], [4, 0]),
    # The root of (1 + 49) / 2, and of (0 + 32) / 2.
    "power_mean": RuleCase([[1, 0], [7, sqrt(32)]], [2, 2], [5, 4]),
    # The third member does not count.
    "minimum": RuleCase([[3, -1], [2, 5], [0, -9]], [1, 2, 0], [2, -1]),
    "maximum": RuleCase([[3, -1], [2, 5], [9, 9]], [1, 2, 0], [3, 5]),
    # A right angle; a third of the way is 30 degrees.
    "slerp": RuleCase([[1, 0], [0, 1]], [2, 1], [cos(pi / 6), sin(pi / 6)]),
    # (1 * 1 + 3 * 3) / (1 + 3); without information it is the mean.
    "fisher": RuleCase([[1, 2], [3, 6]], [1, 1], [2.5, 4], {}, None, [[1, 0], [3, 0]]),
    # [1, 0] @ [[1, 1], [1, 2]] + [0, 1] @ [[1, -1], [-1, 2]] is [0, 3], and the sum of
    # the matrices [[2, 0], [0, 4]].
    "regmean": RuleCase(
        [[1, 0], [0, 1]],
        [1, 1],
        [0, 0.75],
        {"alpha": 1},
        None,
        [[[1, 1], [1, 2]], [[1, -1], [-1, 2]]],
    ),
    # In each row a right angle, and a third of the way; the second row's other length.
    "nuslerp": RuleCase(
        [[[1, 0], [0, 2]], [[0, 1], [2, 0]]],
        [2, 1],
        [[cos(pi / 6), sin(pi / 6)], [2 * sin(pi / 6), 2 * cos(pi / 6)]],
        {"vectors": "row"},
    ),
    # The sum of the directions, (2, 1), with length (2 * 1 + 1 * 4) / 3.
    "multislerp": RuleCase([[1, 0], [0, 4]], [2, 1], [4 / sqrt(5), 2 / sqrt(5)]),
    # Of a convex quadrilateral, where the diagonals cross.
    "geometric_median": RuleCase([[0, 0], [4, 0], [3, 3], [0, 4]], [1] * 4, [2, 2]),
    # 0.5 * 2 - 1 * 3 and 0.5 * 4 - 1 * 1.
    "linear_combination": RuleCase([[2, 4], [3, 1]], [0.5, -1], [-2, 1]),
    # Up by 0.5 at most, down by 0.5 at most, and 0.25 is near.
    "nearswap": RuleCase(
        [[1, 1, 1], [3, 0, 1.25]], [1, 1], [1.5, 0.5, 1.25], {"t": 0.5}
    ),
    # In one row, importance is in proportion to the changes .1 to .4 and 2; quartiles
    # .2, .3 and .4 make the threshold .3 + 1.5 * .2.
    "arcee_fusion": RuleCase(
        [[0, 0, 0, 0, 0], [0.1, -0.2, 0.3, -0.4, 2]], [1, 1], [0, 0, 0, 0, 2]
    ),
    # Half-way of a right angle is 45 degrees; the mean length is (1 + 3) / 2.
    "karcher_mean": RuleCase([[1, 0], [0, 3]], [1, 1], [sqrt(2), sqrt(2)]),
    # 1 + 0.5 * (1 * 2 - 2 * 3) and 4 + 0.5 * (1 * -2 - 2 * 0).
    "task_arithmetic": RuleCase(
        [[3, 2], [4, 4]], [1, -2], [-1, 3], {"scale": 0.5}, [1, 4]
    ),
    # Differences (2, 0) and (1, sqrt(3)) are 60 degrees apart: 2 cos / (1 + cos) = 2/3
    # of their mean (1.5, sqrt(3) / 2).
    "model_stock": RuleCase(
        [[3, 1], [2, 1 + sqrt(3)]], [1, 1], [2, 1 + 1 / sqrt(3)], {}, [1, 1]
    ),
    # Differences (1, 0) and (0, 1) in the first row, (0, 2) and (2, 0) in the second,
    # are at right angles: a third of the way, added to 1.
    "nuslerp_task_vectors": RuleCase(
        [[[2, 1], [1, 3]], [[1, 2], [3, 1]]],
        [2, 1],
        [
            [1 + cos(pi / 6), 1 + sin(pi / 6)],
            [1 + 2 * sin(pi / 6), 1 + 2 * cos(pi / 6)],
        ],
        {"vectors": "row"},
        [[1, 1], [1, 1]],
    ),
    # As multislerp, of the differences (1, 0) and (0, 4).
    "multislerp_task_vectors": RuleCase(
        [[2, 1], [1, 5]], [2, 1], [1 + 4 / sqrt(5), 1 + 2 / sqrt(5)], {}, [1, 1]
    ),
    # Sums of squares of (2, 1) and (1, -2) are 5 and 5: halves. The sum of the second
    # entry is negative: 1 is erased. 1 + (2 + 1) / 2 and 1 - 2 / 2.
    "sce": RuleCase([[3, 2], [2, -1]], [1, 1], [2.5, 0], {}, [1, 1]),
    # The first entry is changed by both, by 2 and 3 * 4, halved; the others by one. The
    # first has one shared change for each unique one: 2 * (1 + 0.5); the second too.
    "ram": RuleCase([[3, 3, 1], [5, 1, 2]], [1, 3], [8, 4, 5.5], {"r": 0.5}, [1, 1, 1]),
    # With seed 177 the random numbers of the members begin with .48, .99, .25 and with
    # .23, .92, .84. Below 0.5: the differences 1 and 2, and -1; doubled 2 and 4, -2.
    "dare_linear": RuleCase(
        [[2, 5, 3], [0, 2, 4]],
        [1, 3],
        [-1, 1, 3],
        {"density": 0.5, "scale": 0.5, "seed": 177},
        [1, 1, 1],
    ),
    # The same numbers; in the first entry 2 and 3 * -2 elect the negative sign.
    "dare_ties": RuleCase(
        [[2, 5, 3], [0, 2, 4]],
        [1, 3],
        [0, 1, 3],
        {"density": 0.5, "scale": 0.5, "seed": 177},
        [1, 1, 1],
    ),
    # The same numbers. The differences 1, 4 and 2 are kept with 0.25, 0.75 and 0.5: 2,
    # doubled. Of -1, 1 and 3 with 0.375, 0.375 and 0.75: -1, divided by 0.375.
    "della_linear": RuleCase(
        [[2, 5, 3], [0, 2, 4]],
        [1, 3],
        [-3, 1, 3],
        {"density": 0.5, "epsilon": 0.25, "scale": 0.5, "seed": 177},
        [1, 1, 1],
    ),
    # The same without the sum: -1 / 0.375 of the second, 4 of the first.
    "della_ties": RuleCase(
        [[2, 5, 3], [0, 2, 4]],
        [1, 3],
        [-1 / 3, 1, 3],
        {"density": 0.5, "epsilon": 0.25, "scale": 0.5, "seed": 177},
        [1, 1, 1],
    ),
    # Two differences of each are kept: 4 and -2, 3 and 2. In the second entry -2 and
    # 3 * 3 elect the positive sign: 9 / 3.
    "ties": RuleCase(
        [[5, -1, 2, 1], [0, 4, 3, 1]],
        [1, 3],
        [3, 2.5, 2, 1],
        {"density": 0.5, "scale": 0.5},
        [1, 1, 1, 1],
    ),
    # The same without signs: 4, -2 + 3 * 3 and 3 * 2, halved.
    "magnitude_prune": RuleCase(
        [[5, -1, 2, 1], [0, 4, 3, 1]],
        [1, 3],
        [3, 4.5, 4, 1],
        {"density": 0.5, "scale": 0.5},
        [1, 1, 1, 1],
    ),
    # Without 4 and 3, the next two are kept: -2 and 1, 2 and -1.
    "breadcrumbs_linear": RuleCase(
        [[5, -1, 2, 1], [0, 4, 3, 1]],
        [1, 3],
        [-2, -1, 8, 1],
        {"density": 0.5, "gamma": 0.25},
        [1, 1, 1, 1],
    ),
    # The same, divided by the weights of the kept ones: -3 / 3, -2 / 1 and 7 / 4.
    "breadcrumbs_ties": RuleCase(
        [[5, -1, 2, 1], [0, 4, 3, 1]],
        [1, 3],
        [0, -1, 2.75, 1],
        {"density": 0.5, "gamma": 0.25},
        [1, 1, 1, 1],
    ),
    # The sum of differences is (6, 1, 2, 5). Those of the first are (4, -2, 1, 0), more
    # than half of the rest, (2, 3, 1, 5), but the last; those of the second are (2, 3,
    # 1, 5), more than half of (4, -2, 1, 0), but the first.
    "consensus": RuleCase(
        [[5, -1, 2, 1], [3, 4, 2, 6]],
        [1, 1],
        [1, 1.5, 2, 1],
        {"selectivity": 0.5, "scale": 0.5},
        [1, 1, 1, 1],
    ),
    # Differences diag(2, 1) and diag(0, 3) have squares diag(4, 1) and diag(0, 9), of
    # shares diag(0.8, 0.2) and diag(0, 1): 2 from the first alone, and
    # (0.2 * 1 + 1 * 3) / (0.2 + 1).
    "wudi": RuleCase(
        [[[3, 1], [1, 2]], [[1, 1], [1, 4]]],
        [1, 1],
        [[3, 1], [1, 1 + 8 / 3]],
        {"solver": "exact"},
        [[1, 1], [1, 1]],
    ),
    # Each keeps one of two directions: 3 of the first member, 2 of the second.
    "tsv": RuleCase(
        [[[4, 1], [1, 2]], [[2, 1], [1, 3]]],
        [1, 1],
        [[4, 1], [1, 3]],
        {},
        [[1, 1], [1, 1]],
    ),
    # The sum of differences is diag(3, 1), of the mean 2.
    "iso_c": RuleCase(
        [[[4, 1], [1, 1]], [[1, 1], [1, 2]]],
        [1, 1],
        [[3, 1], [1, 3]],
        {},
        [[1, 1], [1, 1]],
    ),
    # diag(8, 2, 2) in common; the rest is diag(0, 2, 0) of the first member, and
    # diag(0, 0, 2) of the second: the mean of 8, 2 and 2 is 4.
    "iso_cts": RuleCase(
        [[[4, 0, 0], [0, 2, 0], [0, 0, 0]], [[4, 0, 0], [0, 0, 0], [0, 0, 2]]],
        [1, 1],
        [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
        {"common_fraction": 0.4},
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ),
}

COMBINER_CASES = {
    # (3 * 0.2 + 1 * 0.6) / 4 and (3 * 0.8 + 1 * 0.4) / 4
    "mean": CombinerCase([[[0.2, 0.8]], [[0.6, 0.4]]], [3, 1], [[0.3, 0.7]]),
    # Roots of 0.64 * 0.16 and 0.36 * 0.04 are 0.32 and 0.12: 8 to 3.
    "geometric_mean": CombinerCase(
        [[[0.64, 0.36]], [[0.16, 0.04]]], [1, 1], [[8 / 11, 3 / 11]]
    ),
    # Bayes' rule: two who say 0.8 and 0.6, each from even odds: 4 * 1.5 is 6 to 1.
    "product": CombinerCase([[[0.8, 0.2]], [[0.6, 0.4]]], [1, 1], [[6 / 7, 1 / 7]]),
    # Odds 4 and 3 to powers of 2 and -1, 16 / 3, times 1 / 2 of the intercepts.
    "log_pool": CombinerCase(
        [[[0.8, 0.2]], [[0.75, 0.25]]],
        [4, -2],
        [[8 / 11, 3 / 11]],
        {"temperature": np.array(2.0), "intercept": np.log([1.0, 2.0])},
    ),
    # The first is for the second class; the others, one with a tie, for the first.
    "vote": CombinerCase(
        [[[0.1, 0.9]], [[0.5, 0.5]], [[0.6, 0.4]]], [2, 1, 1], [[0.5, 0.5]]
    ),
    # Beaten: 2, 0, 1 and 0.5, 0.5, 2. (3 * 2 + 1 * 0.5) / 4 and so on.
    "borda": CombinerCase(
        [[[0.6, 0.1, 0.3]], [[0.2, 0.2, 0.6]]], [3, 1], [[1.625, 0.125, 1.25]]
    ),
    # Of 4 training values 0.3 has 1 below and equals 1: 1.5 / 4; 0.9 has all below.
    "rank_mean": CombinerCase(
        [[[0.3]], [[0.9]]],
        [1, 3],
        [[(0.375 + 3) / 4]],
        {"training": np.array([[[0.1], [0.3], [0.5], [0.7]]] * 2)},
    ),
    # The second's are out of order: 1 and 5 they should be.
    "quantile_mean": CombinerCase([[[2, 3]], [[5, 1]]], [1, 1], [[1.5, 4]]),
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
    # Alone 0.2, 0.7 and 0.5.
    "best": SelectionCase(3, lambda w: float(w @ [0.2, 0.7, 0.5]), [0, 1, 0]),
    # Alone -4, -1 and -9. The best two are -2 and 1, their mean -1/2 scores -1/4; with
    # the third, 3, it is 2/3, and -4/9.
    "top_k": SelectionCase(3, lambda w: -float((w @ [-2, 1, 3]) ** 2), [0.5, 0.5, 0]),
    # The last alone scores -9, with the second (1 + 3) / 2 = 2: -4, all 2 / 3: -4 / 9.
    "windows": SelectionCase(
        3, lambda w: -float((w @ [-2, 1, 3]) ** 2), [1 / 3, 1 / 3, 1 / 3]
    ),
    # 3 : 1 is -3 / 4 and 1 : 1 is 1 / 2, so -9 / 16 and -1 / 4; alone -4 and -9.
    "listed": SelectionCase(
        2,
        lambda w: -float((w @ [-2, 3]) ** 2),
        [0.5, 0.5],
        lambda: {"candidates": [[3, 1], [2, 2]]},
    ),
    # From 1 to the mean of -2 and -3: 1 - 3.5 alpha, nearest to 0 at 0.3.
    "wise_ft": SelectionCase(
        2, lambda w: -float((1 - w.sum() + w @ [-2, -3]) ** 2), [0.15, 0.15]
    ),
    # Besides equal weights it draws 1 / e and 1 / e^2: minus logarithms of 1 and 2.
    "optuna": SelectionCase(
        2,
        lambda w: -float((2 * w[0] - w[1]) ** 2),
        [1 / 3, 2 / 3],
        lambda: {"n_trials": 2, "sampler": _draws(member_0=exp(-1), member_1=exp(-2))},
    ),
}


def _draws(**values: float) -> Any:
    """A sampler of optuna's that draws these."""
    from optuna.samplers import BaseSampler

    class Known(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return {}

        def sample_relative(self, study: Any, trial: Any, space: Any) -> Any:
            return {}

        def sample_independent(
            self, study: Any, trial: Any, name: str, distribution: Any
        ) -> float:
            return values[name]

    return Known()


SCHEDULE_CASES = {
    "uniform": ScheduleCase([1, 2, 4], {"n": 2}, [0, 1 / 2, 1 / 2]),
    # From 9 back by at least 3: 6, not 7; then 1.
    "lawa": ScheduleCase([1, 4, 6, 7, 9], {"k": 2, "interval": 3}, [0, 0, 0.5, 0, 0.5]),
    # Halved over 2 steps: the last stands for 4 steps, 1 - 1 / 4, the second for 2.
    "ema": ScheduleCase([1, 3, 7], {"half_life": 2}, [1 / 8, 1 / 8, 3 / 4]),
    # Sums t^2 / 16: 1 / 16, 4 / 16 and 1.
    "power": ScheduleCase([1, 2, 4], {"gamma": 1}, [1 / 16, 3 / 16, 3 / 4]),
    # A decay over 9 + 3 steps, 3 the mean distance: the shares are 0, 1 / 4, 9 / 16 and
    # 3 / 4, the rates 1, 1 / 2, 1 / 4 and 1 - sqrt(3 / 4).
    "wsm": ScheduleCase(
        [0, 3, 6.75, 9],
        {"shape": "minus_sqrt"},
        [1 / 2, 1 / 4, sqrt(3 / 4) - 3 / 4, 1 - sqrt(3 / 4)],
    ),
}

POOLING_CASES = {
    # (1 * 1 + 3 * 3) / 4 and (1 * 4 + 3 * 0) / 4
    "mean": PoolingCase([[1, 4], [3, 0]], [1, 3], 4, [2.5, 1]),
    # The third word does not count.
    "maximum": PoolingCase([[1, 4], [3, 0], [9, 9]], [1, 3, 0], 4, [3, 4]),
    "minimum": PoolingCase([[1, 4], [3, 0], [-9, -9]], [1, 3, 0], 4, [1, 0]),
    # The cube roots of 64 / 8 and of -64 / 8.
    "power_mean": PoolingCase([[4, -4], [0, 0]], [1, 7], 8, [2, -2]),
    # Means of the first two words (1, 2), of the last two (4, 0).
    "hierarchical": PoolingCase(
        [[0, 3], [2, 1], [6, -1]], [1, 1, 1], 3, [4, 2], {"window": 2}
    ),
}

MET = WordFrequencies(np.array([1.0, 3.0]), np.array([1.0, 3.0]))
WEIGHTING_CASES = {
    # p is 1/4 and 3/4.
    "sif": WeightingCase(MET, {"a": 0.25}, [1 / 2, 1 / 4]),
    # The threshold is 1 - (1 - 1/2), one word of two is above: a = (1/2) / (1/2).
    "usif": WeightingCase(MET, {"length": 1}, [4 / 3, 4 / 5]),
    # Of three texts one has the first word, none the second.
    "idf": WeightingCase(
        MET._replace(documents=np.array([1.0, 0.0]), n_documents=3),
        {},
        [np.log(4 / 2) + 1, np.log(4) + 1],
    ),
    # 1/2 and 1/3 are shares of .6 and .4: .4 / 1 and .4 / .8.
    "zipf": WeightingCase(MET, {"a": 0.4}, [0.4, 0.5]),
}


def test_everything_registered_has_a_case() -> None:
    assert RULE_CASES.keys() == RULES.keys()
    assert COMBINER_CASES.keys() == COMBINERS.keys()
    assert SELECTION_CASES.keys() == SELECTIONS.keys()
    assert SCHEDULE_CASES.keys() == SCHEDULES.keys()
    assert POOLING_CASES.keys() == POOLINGS.keys()
    assert WEIGHTING_CASES.keys() == WEIGHTINGS.keys()


@pytest.mark.parametrize("name", SCHEDULE_CASES)
def test_schedules_give_what_was_worked_out(name: str) -> None:
    case = SCHEDULE_CASES[name]
    weights = SCHEDULES[name](case.positions, **case.params)
    np.testing.assert_allclose(weights, case.weights, rtol=1e-14)


@pytest.mark.parametrize("name", POOLING_CASES)
def test_poolings_give_what_was_worked_out(name: str) -> None:
    words, weights, divisor, expected, params = POOLING_CASES[name]
    stack, shares = np.array(words, np.float64), np.array(weights, np.float64)
    found = POOLINGS[name].function(stack, shares, divisor, **params)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("name", WEIGHTING_CASES)
def test_word_weightings_give_what_was_worked_out(name: str) -> None:
    case = WEIGHTING_CASES[name]
    found = WEIGHTINGS[name](case.frequencies, **case.params)
    np.testing.assert_allclose(found, case.weights, rtol=1e-14)


@pytest.mark.parametrize("name", RULE_CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rules_give_what_was_worked_out(
    name: str, dtype: type[np.floating[Any]]
) -> None:
    case = RULE_CASES[name]
    base = None if case.base is None else np.array(case.base, dtype)
    members = np.array(case.members, dtype)
    more = {"base": base, "moments": case.moments, **case.params}
    result = RULES[name](members, case.weights, **more)
    slack = 2 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(result, case.result, rtol=slack)
    assert result.dtype == dtype


@pytest.mark.parametrize("name", COMBINER_CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_combiners_give_what_was_worked_out(
    name: str, dtype: type[np.floating[Any]]
) -> None:
    case = COMBINER_CASES[name]
    params = {
        key: np.asarray(value).astype(dtype) for key, value in case.params.items()
    }
    result = COMBINERS[name](np.array(case.members, dtype), case.weights, **params)
    slack = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(result, case.result, rtol=slack)
    assert result.dtype == np.float64


@pytest.mark.parametrize("name", SELECTION_CASES)
def test_selections_choose_what_was_worked_out(name: str) -> None:
    case = SELECTION_CASES[name]
    weights = SELECTIONS[name](case.n_members, case.score, **case.params())
    np.testing.assert_allclose(weights, case.weights, atol=1e-6)
