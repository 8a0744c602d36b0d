"""Weights as counts of members, up to where those fit into the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.merging.combinations import MOST, Pool, as_counts
from tests.checkpoints.building import save


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_so_many_counts_fit_into_the_usual_memory(tmp_path: Path, dtype: type) -> None:
    members = [
        save(tmp_path / "a.safetensors", {"w": np.zeros(1 << 17, dtype)}),
        save(tmp_path / "b.safetensors", {"w": np.ones(1 << 17, np.float32)}),
    ]
    pool = Pool([open_checkpoint(path, 0) for path in members])
    for count in range(1, MOST):  # as greedy adds them, one by one
        planned = pool.plan(np.array([count, 1]) / (count + 1))
    assert len(planned.members) == MOST
    # One more, and they are weights: their blocks would not fit.
    planned = pool.plan(np.array([MOST, 1]) / (MOST + 1))
    assert len(planned.members) == 2
    assert planned.weights.tolist() == [MOST / (MOST + 1), 1 / (MOST + 1)]
    assert as_counts(planned.weights) is None


def test_options_are_those_of_every_plan(tmp_path: Path) -> None:
    members = [
        open_checkpoint(save(tmp_path / f"{n}.safetensors", {"w": np.ones(n)}), n)
        for n in (1, 1)
    ]
    pool = Pool(members, options={"threads": 1, "dtype": "float32"})
    for weights in ([1, 0], [0.5, 0.5], [0.123, 0.877]):
        assert pool.plan(np.array(weights)).options.dtype == "float32"


def test_weights_that_no_addition_leads_to_read_each_member_once(
    tmp_path: Path,
) -> None:
    members = [
        open_checkpoint(save(tmp_path / f"{n}.safetensors", {"w": np.ones(3)}), n)
        for n in range(3)
    ]
    pool = Pool(members)
    base = pool.plan(np.array([0.9, 0.05, 0.05]))
    assert len(base.members) == 3
    assert base.weights.tolist() == [0.9, 0.05, 0.05]
    pool.plan(np.array([0, 0.5, 0.5]))
    more = pool.plan(np.array([0, 2 / 3, 1 / 3]))
    assert [m.name for m in more.members] == [
        members[place].name for place in (1, 2, 1)
    ]
    assert more.weights.tolist() == [1, 1, 1]
    last = pool.plan(np.full(3, 1 / 3))
    assert [m.name for m in last.members] == [
        members[place].name for place in (1, 2, 0)
    ]


def test_members_that_count_once_are_counts_however_many() -> None:
    weights = np.zeros(200)
    weights[::2] = 1 / 100
    counts = as_counts(weights)
    assert counts is not None
    np.testing.assert_array_equal(counts, [1, 0] * 100)
