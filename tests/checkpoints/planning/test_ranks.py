"""How the weight files of an output are divided among processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import plan
from ensembles.checkpoints.planning.ranks import assign
from tests.checkpoints.building import save, save_shards


def saved(path: Path, sizes: list[int]) -> Path:
    return save_shards(path, [{f"t{i}": np.zeros(n)} for i, n in enumerate(sizes)])


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_each_weight_file_has_one_rank(tmp_path: Path, world_size: int) -> None:
    member = saved(tmp_path / "a", [5, 3, 8, 1, 9, 2, 2])
    plans = [
        plan([member], tmp_path / "out", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    files = [file for planned in plans for file in planned.assigned]
    assert sorted(files) == sorted(plans[0].parts)
    alone = plan([member], tmp_path / "out")
    assert sum(planned.read_bytes for planned in plans) == alone.read_bytes
    assert sum(planned.write_bytes for planned in plans) == alone.write_bytes


def test_the_largest_files_are_assigned_first(tmp_path: Path) -> None:
    member = saved(tmp_path / "a", [1, 2, 4, 5, 8])
    parts = plan([member], tmp_path / "out").parts
    names = list(parts)
    # 8; 5; 5 + 4; 8 + 2; 9 + 1, with the sizes of the ranks as sums.
    assert assign(parts, 2) == [[names[1], names[4]], [names[0], *names[2:4]]]


def test_two_ranks_share_shards_of_a_model_within_a_fifth(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    member = saved(tmp_path / "a", rng.integers(1000, 2000, 9).tolist())
    sizes = [
        plan([member], tmp_path / "out", rank=rank, world_size=2).read_bytes
        for rank in (0, 1)
    ]
    assert max(sizes) < 1.2 * sum(sizes) / 2
    assert not [
        n for n in plan([member], tmp_path / "o", world_size=2).notes if "sha" in n
    ]


def test_an_uneven_division_is_noted_with_a_shard_size(tmp_path: Path) -> None:
    member = save(
        tmp_path / "a" / "model.safetensors", {f"t{i}": np.ones(8) for i in range(9)}
    )
    planned = plan([member.parent], tmp_path / "out", rank=3, world_size=4)
    assert planned.assigned == []
    (note,) = planned.notes
    assert note == (
        "the weight files divide unevenly among 4 processes: the largest share is 100% "
        "of the bytes, and 3 write none; pass shard_size=36 (--shard-size 36) for "
        "smaller files"
    )
    planned = plan([member.parent], tmp_path / "out", world_size=3, shard_size=36)
    assert planned.notes == ()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 1}, ValueError, "rank=1 needs world_size"),
        ({"rank": 2, "world_size": 2}, ValueError, "found rank=2 and world_size=2"),
        ({"rank": -1, "world_size": 2}, ValueError, "rank must be at least 0"),
        ({"world_size": 0}, ValueError, "smaller than world_size, found rank=0"),
        ({"world_size": "2"}, TypeError, "world_size must be a whole number of proce"),
        ({"rank": 0.5, "world_size": 2}, TypeError, "rank must be a whole number"),
    ],
    ids=str,
)
def test_ranks_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    member = saved(tmp_path / "a", [1])
    with pytest.raises(error, match=message):
        plan([member], tmp_path / "out", **options)


def test_the_disk_needs_room_only_for_what_is_not_written_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = saved(tmp_path / "a", [1000, 1000])
    output = tmp_path / ".out.parts-0" / "output"
    output.mkdir(parents=True)
    (output / "x").write_bytes(bytes(8000))
    usage = type("Usage", (), {"free": 9000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    plan([member], tmp_path / "out", world_size=2)
    with pytest.raises(ValueError, match="needs 16000 bytes, its disk has 9000 left"):
        plan([member], tmp_path / "out")
