"""No damage to a checkpoint gives another error than one clear line."""

from __future__ import annotations

import pytest

from tests.checkpoints import fuzzing


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore")
def test_damaged_checkpoints_are_read_or_refused_in_one_line(seed: int) -> None:
    n_cases, failure = fuzzing.fuzz(1000, 300.0, seed)
    assert failure is None
    assert n_cases == 1000
