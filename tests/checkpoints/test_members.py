"""Members from paths, patterns and training directories."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints import average, members, plan
from tests.checkpoints.building import pair, save, save_shards

ONE = {"w": np.ones(2, np.float32)}


def expand(paths: list[str], last: int | None = None) -> list[str]:
    return members.expand(paths, last=last).paths


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
        ValueError, match=rf"last must be from 1 .* 2 in .*found {last}"
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
    user = os.geteuid()
    if user == 0:  # root reads everything, so for a moment it is somebody else
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match=r"a\.safetensors"):
            plan([a])
    finally:
        os.seteuid(user)


def test_the_step_may_be_in_any_part_of_the_path(tmp_path: Path) -> None:
    training(tmp_path / "run7", *range(100, 1200, 100))
    found = expand([str(tmp_path / "run7/*/model.safetensors")], last=2)
    assert [Path(path).parent.name for path in found] == [
        "checkpoint-1000",
        "checkpoint-1100",
    ]


@pytest.mark.parametrize(
    "ordered",
    [
        ["epoch=3-val_loss=0.51.ckpt", "epoch=12-val_loss=0.09.ckpt"],
        ["epoch=9-step=90.ckpt", "epoch=1-step=100.ckpt"],
        ["global_step90_v3.pt", "global_step100_v2.pt"],
        ["checkpoint_90-of-2.pt", "checkpoint_100-of-1.pt"],
        ["m.9.pt", "m.10.pt"],
        ["m-9-acc0.99.pt", "m-10-acc0.11.pt"],
    ],
    ids=str,
)
def test_the_surest_number_is_the_step(tmp_path: Path, ordered: list[str]) -> None:
    for name in ordered:
        (tmp_path / name).write_bytes(b"")
    assert names(expand([str(tmp_path)], last=2)) == ordered
    assert names(expand([str(tmp_path / "*")], last=2)) == ordered


def test_the_names_of_folders_have_no_suffix(tmp_path: Path) -> None:
    for step in ("1.75", "1.5"):
        save(tmp_path / f"checkpoint-{step}/model.safetensors", ONE)
    found = names(expand([str(tmp_path)], last=2))
    assert found == ["checkpoint-1.5", "checkpoint-1.75"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["a.pt", "b-3.pt"], r"a\.pt -> None, .*b-3\.pt -> 3; name the"),
        (["a-3.pt", "b-3.pt"], r"a-3\.pt -> 3, .*b-3\.pt -> 3; name the"),
    ],
)
def test_steps_that_are_missing_or_shared_are_listed(
    tmp_path: Path, entries: list[str], message: str
) -> None:
    paths = [str(tmp_path / name) for name in entries]
    with pytest.raises(ValueError, match=message):
        expand(paths, last=1)


def test_of_a_pattern_the_last_are_checkpoints_with_a_step(tmp_path: Path) -> None:
    run = training(tmp_path / "run", 90, 500)
    for name in ("README.md", "events-7000.out", "optimizer-8000.pt", "best.pt"):
        (run / name).write_bytes(b"")
    pattern = str(run / "*")
    assert names(expand([pattern], last=2)) == ["checkpoint-90", "checkpoint-500"]
    with pytest.raises(ValueError, match=r"number of checkpoints, 2 in .* found 3"):
        expand([pattern], last=3)
    assert "README.md" in names(expand([pattern]))


def test_a_pattern_without_steps_stands_for_all_its_checkpoints(tmp_path: Path) -> None:
    for name in ("best.pt", "last.pt", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"best\.pt -> None, .*last\.pt -> None; name"):
        expand([str(tmp_path / "*")], last=1)
    assert names(expand([str(tmp_path / "be*")], last=1)) == ["best.pt"]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint matches '.*\*\.txt'"):
        expand([str(tmp_path / "*.txt")], last=1)


@pytest.mark.parametrize("n_last", [1, 3])
def test_checkpoints_inside_go_before_the_final_weights(
    tmp_path: Path, n_last: int
) -> None:
    run = training(tmp_path / "run", 100, 200, 300)
    save(run / "model.safetensors", ONE)
    save(run / "averaged.safetensors", ONE)
    found = names(expand([str(run)], last=n_last))
    assert found == ["checkpoint-100", "checkpoint-200", "checkpoint-300"][-n_last:]


def test_the_parts_of_a_pipeline_are_no_steps(tmp_path: Path) -> None:
    save(tmp_path / "text_encoder_2/model.safetensors", ONE)
    (tmp_path / "model_index.json").write_text("{}")
    assert expand([str(tmp_path)], last=1) == [str(tmp_path)]


def test_each_chosen_checkpoint_has_its_step(tmp_path: Path) -> None:
    run = str(training(tmp_path / "run", 500, 1000, 1500, 90))
    found = members.expand([run], last=2)
    assert list(map(str, found.steps)) == ["1000", "1500"]
    assert members.expand([run]).steps == [None]
