"""Members from paths, patterns and training directories."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.members import expand
from tests.checkpoints.building import pair, save, save_shards

ONE = {"w": np.ones(2, np.float32)}


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def training(folder: Path, *steps: int) -> Path:
    """A directory as trainers leave it: checkpoints by step, and other things."""
    for step in steps:
        save(folder / f"checkpoint-{step}/model.safetensors", ONE)
        (folder / f"checkpoint-{step}/optimizer.pt").write_bytes(b"")
    (folder / "runs").mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_the_last_members_are_those_of_the_highest_steps(tmp_path: Path) -> None:
    run = str(training(tmp_path / "run", 500, 1000, 1500, 90))
    assert names(expand([run], last=2)) == ["checkpoint-1000", "checkpoint-1500"]
    assert names(expand([run], last=4))[:2] == ["checkpoint-90", "checkpoint-500"]


def test_files_of_a_training_run_are_sorted_by_step(tmp_path: Path) -> None:
    for name in ("epoch=2-step=900.ckpt", "epoch=10-step=4000.ckpt", "a.txt", ".x.pt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "optimizer_5000.pt").write_bytes(b"")
    (tmp_path / "events.out").mkdir()
    found = names(expand([str(tmp_path)], last=2))
    assert found == ["epoch=2-step=900.ckpt", "epoch=10-step=4000.ckpt"]


@pytest.mark.parametrize("last", [0, 3, 100])
def test_as_many_as_there_are_can_be_the_last(tmp_path: Path, last: int) -> None:
    run = str(training(tmp_path / "run", 500, 1000))
    with pytest.raises(
        ValueError, match=rf"--last must be from 1 .* 2 in .*found {last}"
    ):
        expand([run], last=last)


def test_a_directory_of_shards_is_one_checkpoint(tmp_path: Path) -> None:
    shards = save_shards(tmp_path / "model-3", [ONE, {"v": np.ones(1)}])
    assert expand([str(shards)], last=1) == [str(shards)]
    assert expand([str(shards)]) == [str(shards)]


def test_a_directory_of_modules_is_one_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "st/1_Dense/model.safetensors", ONE)
    (tmp_path / "st/modules.json").write_text('[{"path": "1_Dense"}]')
    assert expand([str(tmp_path / "st")], last=1) == [str(tmp_path / "st")]


def test_patterns_stand_for_what_they_match_in_order_of_steps(tmp_path: Path) -> None:
    for step in (500, 1000, 90):
        save(tmp_path / f"m-{step}.safetensors", ONE)
    found = names(expand([str(tmp_path / "m-*.safetensors")]))
    assert found == ["m-90.safetensors", "m-500.safetensors", "m-1000.safetensors"]
    found = names(expand([str(tmp_path / "m-?0*.safetensors")], last=2))
    assert found == ["m-500.safetensors", "m-1000.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint matches '.*x\*'"):
        expand([str(tmp_path / "x*")])


def test_a_name_with_the_signs_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    path = str(save(tmp_path / "a[1]*.safetensors", ONE))
    assert expand([path]) == [path]


def test_paths_stay_in_the_order_given(tmp_path: Path) -> None:
    assert expand(["b-2", "a-1"]) == ["b-2", "a-1"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", r"says nothing of its format \(known: \.safetensors, \.pt"),
        ("a", r"says nothing of its format"),
        ("a.gguf", r"GGUF is quantised, convert it back first"),
        ("a.h5", r"says nothing of its format"),
    ],
)
def test_a_suffix_that_is_not_known_is_told(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).write_bytes(b"123")
    with pytest.raises(ValueError, match=message):
        plan([tmp_path / name])


def test_paths_may_be_of_any_kind(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    found = average([str(a), b])
    assert found["w"].tolist() == [2, 3, 5.5]
    mixed = average([a, {"w": np.array([3, 4, 8], np.float32)}])
    assert mixed["w"].tolist() == [2, 3, 5.5]


def test_a_file_that_may_not_be_read_is_one_error(tmp_path: Path) -> None:
    a, _ = pair(tmp_path)
    a.chmod(0)
    if os.access(a, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(PermissionError, match=r"a\.safetensors"):
        plan([a])
