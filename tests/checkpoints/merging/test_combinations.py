"""Counts of members as repetitions in a mean, up to what fits into the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints import plan
from ensembles.checkpoints.merging.combinations import MemberCombinations
from ensembles.checkpoints.planning.options import MEMORY
from tests.checkpoints.building import save


def ratio(counts: list[int]) -> np.ndarray:
    return np.array(counts) / sum(counts)


@pytest.mark.parametrize("memory", [MEMORY, MEMORY // 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_so_many_counts_fit_into_the_memory(
    tmp_path: Path, dtype: type, memory: int
) -> None:
    members = [
        save(tmp_path / "a.safetensors", {"w": np.zeros(1 << 17, dtype)}),
        save(tmp_path / "b.safetensors", {"w": np.ones(1 << 17, np.float32)}),
    ]
    combinations = MemberCombinations(2, memory=memory)
    count = 1
    while True:  # as greedy adds them, one by one
        counts = np.array([count, 1])
        found = combinations.arrange(ratio([count, 1]), counts)
        if found.weights is not None:
            break
        count += 1
    assert count > (20 if memory < MEMORY else 50)
    most = [members[index] for index in combinations.order]
    assert len(most) == count
    plan(most, memory=memory)  # would be an error with too little memory
    # One more, and they are weights: their blocks might not fit.
    assert found.members == [0, 1]
    assert found.weights.tolist() == ratio([count, 1]).tolist()


def test_members_that_counts_repeat_are_read_in_the_order_of_the_last_mean() -> None:
    combinations = MemberCombinations(3)
    base = combinations.arrange(np.array([0.9, 0.05, 0.05]))
    assert base.members == [0, 1, 2]
    assert base.weights is not None
    assert base.weights.tolist() == [0.9, 0.05, 0.05]
    for counts, order in (
        ([0, 1, 1], [1, 2]),
        ([0, 2, 1], [1, 2, 1]),
        ([1, 1, 1], [1, 2, 0]),
        ([2, 2, 2], [1, 2, 0]),  # in the same ratio
    ):
        found = combinations.arrange(ratio(counts), np.array(counts))
        assert found == (order, None)


def test_counts_that_read_more_than_each_member_once_are_weights() -> None:
    combinations = MemberCombinations(2)
    found = combinations.arrange(ratio([9, 1]), np.array([9, 1]))
    assert found.members == [0, 1]
    assert found.weights is not None
    assert combinations.order == []


def test_a_single_member_is_its_own_mean() -> None:
    assert MemberCombinations(3).arrange(np.array([0, 1.0, 0])) == ([1], None)


def test_members_that_count_once_are_counts_however_many() -> None:
    counts = np.array([1, 0] * 100)
    found = MemberCombinations(200).arrange(counts / 100, counts)
    assert found == (list(range(0, 200, 2)), None)
