"""Which tensors go into which file of a directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints import plan
from tests.checkpoints.building import save_shards


@pytest.mark.parametrize(
    ("shard_size", "sizes"),
    [
        (24, [24, 24]),  # three tensors of 8 bytes fill a file to the last byte
        (23, [16, 16, 16]),
        (25, [24, 24]),
        (8, [8] * 6),
        (7, [8] * 6),  # a tensor is never cut
        (48, [48]),
        (47, [40, 8]),
    ],
)
def test_a_file_is_filled_up_to_its_limit(
    tmp_path: Path, shard_size: int, sizes: list[int]
) -> None:
    member = tmp_path / "a"
    save_shards(member, [{f"t{i}": np.zeros(2, np.float32) for i in range(6)}])
    planned = plan([member], tmp_path / "out", shard_size=shard_size)
    found = [sum(target.nbytes for target in part) for part in planned.parts.values()]
    assert found == sizes
