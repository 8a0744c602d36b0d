"""Members from paths, patterns and training directories."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.merging import provenance
from ensembles.checkpoints.runs import entries
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.building import pair, save, save_shards

JAGGED = torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged)
ONE = {"w": np.ones(2, np.float32)}


def written() -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.ones(2)}, file)
    return file.getvalue()


WRITTEN = written()


def expand(paths: list[str], last: int | None = None) -> list[str]:
    return choose_checkpoints(paths, last=last).paths


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
        (tmp_path / name).write_bytes(WRITTEN)
    (tmp_path / "optimizer_5000.pt").write_bytes(b"")
    (tmp_path / "events.out").mkdir()
    found = names(expand([str(tmp_path)], last=2))
    assert found == ["epoch=2-step=900.ckpt", "epoch=10-step=4000.ckpt"]


@pytest.mark.parametrize("last", [0, 3, 100])
def test_as_many_as_there_are_can_be_the_last(tmp_path: Path, last: int) -> None:
    run = str(training(tmp_path / "run", 500, 1000))
    with pytest.raises(
        ValueError, match=rf"last=N \(--last N\) must be from 1 .* 2 in .*found {last}"
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
        (
            "a.txt",
            r"a file of a known format \(\.safetensors, \.sft, .*\.pt",
        ),
        ("a", r"must be a directory or a file of a known format"),
        ("a.gguf", r"is not a complete GGUF file"),
        ("a.h5", r"is an HDF5 file, as written by Keras"),
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
        ["step_5e4.pt", "step_1e5.pt"],
        ["step_9,000.pt", "step_10,000.pt"],
        ["checkpoint_0.9_epoch_5.pt", "checkpoint_0.8_epoch_6.pt"],
        ["ep0-ba900-rank0.pt", "ep1-ba1000-rank0.pt"],
        ["tokens-500M.pt", "tokens-1.5B.pt"],
        ["epoch1_iter900.pt", "epoch2_iter880.pt"],
        ["part-step900-tokens4B.pt", "part-step90-tokens5B.pt"],
    ],
    ids=str,
)
def test_the_surest_number_is_the_step(tmp_path: Path, ordered: list[str]) -> None:
    for name in ordered:
        (tmp_path / name).write_bytes(WRITTEN)
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
        (
            ["a.pt", "b-3.pt"],
            r"a\.pt -> None, .*b-3\.pt -> 3; name the",
        ),
        (
            ["a-3.pt", "b-3.pt"],
            r"a-3\.pt -> 3, .*b-3\.pt -> 3; name the",
        ),
    ],
)
def test_steps_that_are_missing_or_shared_are_listed(
    tmp_path: Path, entries: list[str], message: str
) -> None:
    empty(tmp_path, entries)
    paths = [str(tmp_path / name) for name in entries]
    with pytest.raises(ValueError, match=message):
        expand(paths, last=1)


def test_of_a_pattern_the_last_are_checkpoints_with_a_step(tmp_path: Path) -> None:
    run = training(tmp_path / "run", 90, 500)
    for name in ("README.md", "events-7000.out", "optimizer-8000.pt", "best.pt"):
        (run / name).write_bytes(WRITTEN)
    pattern = str(run / "*")
    assert names(expand([pattern], last=2)) == ["checkpoint-90", "checkpoint-500"]
    with pytest.raises(ValueError, match=r"number of checkpoints, 2 in .* found 3"):
        expand([pattern], last=3)
    assert "README.md" in names(expand([pattern]))


def test_a_pattern_without_steps_stands_for_all_its_checkpoints(tmp_path: Path) -> None:
    for name in ("best.pt", "last.pt", "notes.txt"):
        (tmp_path / name).write_bytes(WRITTEN)
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
    found = choose_checkpoints([run], last=2)
    assert list(map(str, found.steps)) == ["1000", "1500"]
    assert choose_checkpoints([run]).steps == [None]


def test_a_name_may_have_the_step_the_epoch_and_the_tokens(tmp_path: Path) -> None:
    for name in ("s1-step50-tokens2B-epoch1.pt", "s1-step90-tokens1T-epoch2.pt"):
        (tmp_path / name).write_bytes(WRITTEN)
    choices: list[dict[str, Any]] = [{"tokens": "3B:"}, {"epochs": "2"}]
    for choice in (*choices, {"steps": "60:"}):
        found = choose_checkpoints(tmp_path, **choice)
        assert names(found.paths) == ["s1-step90-tokens1T-epoch2.pt"]
        assert found.checkpoints[0].tokens == 10**12


def test_steps_that_start_again_in_each_epoch_are_not_an_order(tmp_path: Path) -> None:
    for name in ("epoch1_iter500.pt", "epoch1_iter900.pt", "epoch2_iter100.pt"):
        (tmp_path / name).write_bytes(WRITTEN)
    with pytest.raises(ValueError, match=r"different steps, .*iter500\.pt -> 1"):
        expand([str(tmp_path)], last=2)


def test_a_copy_of_the_last_step_is_not_a_new_start_of_the_steps(
    tmp_path: Path,
) -> None:
    for name in ("epoch1_iter5.pt", "epoch1_iter9.pt", "epoch1_iter9_last.pt"):
        (tmp_path / name).write_bytes(WRITTEN)
    chosen = choose_checkpoints(tmp_path, last=2)
    assert names(chosen.paths) == ["epoch1_iter5.pt", "epoch1_iter9.pt"]


def empty(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).write_bytes(WRITTEN)
    return folder


@pytest.mark.parametrize(
    ("entries", "ordered", "passed"),
    [
        (["valid.acc.ave_10best.pth"], ["3epoch.pth", "6epoch.pth"], None),
        (["avg30.pt"], ["1.pt", "2.pt", "9.pt", "10.pt"], None),
        (["avg_5.pt"], ["epoch_1.pt", "epoch_2.pt", "epoch_10.pt"], None),
        (["averaged_last5.pt"], ["step_4.pt", "step_5.pt"], None),
        (["average-of-5.pt", "best_7.pt"], ["m-1.pt", "m-2.pt"], None),
        (["final-9.pt", "init_0.pt", "latest-3.pt"], ["m-1.pt", "m-2.pt"], None),
        (["checkpoint_best.pt"], ["checkpoint_1_500.pt", "checkpoint_1_1000.pt"], None),
        (
            ["model_best.pth.tar"],
            ["checkpoint-9.pth.tar", "checkpoint-10.pth.tar"],
            None,
        ),
        (["swa_3.pt", "soup-4.pt"], ["m-1.pt", "m-2.pt"], None),
        (["modelBest_9.pt"], ["iter_800.pt", "iter_1k.pt"], None),
        (["last-v1.ckpt", "last.ckpt"], ["epoch=1.ckpt", "epoch=2.ckpt"], None),
        # NVIDIA-NeMo/Speech#3096, #7721: results and the last one beside the steps.
        (
            ["m--val=0.2-step=90-averaged.ckpt"],
            ["m-step=50.ckpt", "m-step=60.ckpt"],
            None,
        ),
        # k2-fsa/icefall#901, #447
        (["epoch-9-avg-5-use-averaged-model.pt"], ["epoch-8.pt", "epoch-9.pt"], None),
        (["pretrained_epoch_9_avg_1.pt"], ["epoch-8.pt", "epoch-9.pt"], None),
        (["mean-of-5.pt", "top5.pt"], ["m-1.pt", "m-2-mean_iou=0.5.pt"], None),
        (["seed3.pt", "fold7.pt", "rank0.pt"], ["m-1.pt", "m-2.pt"], None),
        (["model-7b.pt", "llama-8x7b.pt"], ["m-1.pt", "m-2.pt"], None),
        (["2024-05-01.pt", "run_20240501_123000.pt"], ["m-1.pt", "m-2.pt"], None),
        (["x_2024-05-01_12-30-00.pt", "v2.pt"], ["m-1.pt", "m-2.pt"], None),
        (["m-3_backup.pt"], ["m-1.pt", "m-2.pt"], None),
        (
            ["a--val=0.5-epoch=10-last.ckpt"],
            ["a--val=0.7-epoch=9.ckpt", "a--val=0.5-epoch=10.ckpt"],
            "another checkpoint has the same step",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_averages_and_the_best_are_no_steps_of_a_run(
    tmp_path: Path, entries: list[str], ordered: list[str], passed: str | None
) -> None:
    empty(tmp_path, entries + ordered)
    for pattern in (tmp_path, tmp_path / "*"):
        found = choose_checkpoints([str(pattern)], last=len(ordered))
        assert names(found.paths) == ordered
        (note,) = found.notes
        assert all(name in note for name in entries)
        assert (passed or "their names have no training step") in note
        with pytest.raises(ValueError, match=r"last=N .* must be from 1"):
            choose_checkpoints([str(pattern)], last=len(ordered) + 1)


def test_a_last_checkpoint_of_a_step_of_its_own_is_taken(tmp_path: Path) -> None:
    empty(tmp_path, ["a-epoch=3.ckpt", "a-epoch=7.ckpt", "a-epoch=12-last.ckpt"])
    found = choose_checkpoints([str(tmp_path)], last=2)
    assert names(found.paths) == ["a-epoch=7.ckpt", "a-epoch=12-last.ckpt"]
    assert found.notes == []


@pytest.mark.parametrize(
    ("entries", "last", "shown"),
    [
        (["model_10.pt", "model_20.pt", "ema_30.pt"], 2, "model_20.pt, ema_30.pt"),
        (["G_800.pth", "G_1600.pth", "D_2400.pth"], 3, "G_800.pth, D_2400.pth"),
        (["fold_0_ep9.pt", "fold_1_ep7.pt"], 2, "fold_1_ep7.pt, fold_0_ep9.pt"),
        (
            ["stage1-step50-tokens2B.pt", "stage2-step9-tokens3B.pt"],
            2,
            "stage1-step50-tokens2B.pt, stage2-step9-tokens3B.pt",
        ),
        (["m_seed=1_10.pt", "m_seed=2_20.pt"], 2, "m_seed=1_10.pt, m_seed=2_20.pt"),
    ],
)
def test_names_of_two_models_in_one_folder_are_noted(
    tmp_path: Path, entries: list[str], last: int, shown: str
) -> None:
    empty(tmp_path, entries)
    (note,) = choose_checkpoints([str(tmp_path / "*")], last=last).notes
    assert note.startswith(f"{shown} were chosen")
    assert "pass a pattern" in note


def test_steps_of_two_folders_of_runs_are_noted(tmp_path: Path) -> None:
    for run, step in (("run-1", 100), ("run-2", 200)):
        save(tmp_path / run / f"step-{step}/model.safetensors", ONE)
    (note,) = choose_checkpoints([tmp_path / "run-1", tmp_path / "run-2"], last=2).notes
    assert note.startswith("run-1/step-100, run-2/step-200 were chosen")


@pytest.mark.parametrize(
    "entries",
    [
        ["fold1_ep10.pt", "fold1_ep20.pt"],
        ["copy-task-step10.pt", "copy-task-step20.pt"],
        ["temp0.7-step10.pt", "temp0.7-step20.pt"],
        ["epoch=4-val_loss=0.31.ckpt", "epoch=10-val_loss=-0.29-v1.ckpt"],
        ["step1000-tokens4B.pt", "step2000-tokens8B.pt"],
    ],
    ids=lambda entries: entries[0],
)
def test_runs_of_many_names_are_taken_without_a_word(
    tmp_path: Path, entries: list[str]
) -> None:
    empty(tmp_path, [*entries, "meta_000020.pt"])
    found = choose_checkpoints([str(tmp_path)], last=2)
    assert (names(found.paths), found.notes) == (entries, [])


def test_unfinished_folders_are_passed_over(tmp_path: Path) -> None:
    run = training(tmp_path / "run", 9, 10)
    save(run / "tmp-checkpoint-11/model.safetensors", ONE)
    found = choose_checkpoints([str(run)], last=2)
    assert names(found.paths) == ["checkpoint-9", "checkpoint-10"]
    assert found.notes == [
        "skipped tmp-checkpoint-11: it is not completely written (by its name)"
    ]


@pytest.mark.parametrize("name", ["m-5.safetensors", "m-5.pt", "m-5.npz", "m-5"])
def test_results_of_averages_are_known_by_their_recipe(
    tmp_path: Path, name: str
) -> None:
    run = training(tmp_path / "run", 1, 2)
    average([run / "checkpoint-1"], run / name)
    found = choose_checkpoints([str(run)], last=2)
    assert names(found.paths) == ["checkpoint-1", "checkpoint-2"]
    assert found.notes == [
        f"{run}: skipped {name}: their metadata say that they are averages"
    ]
    assert entries.PROVENANCE == provenance.KEY


@pytest.mark.parametrize(
    "entries",
    [
        ["epoch_3.pt", "step_100.pt"],
        ["epoch-1.pt", "checkpoint-4000.pt"],
        ["checkpoint1.pt", "checkpoint_1_1000.pt"],
        ["5.pt", "epoch_6.pt"],
    ],
    ids=str,
)
def test_steps_that_count_different_things_are_refused(
    tmp_path: Path, entries: list[str]
) -> None:
    empty(tmp_path, entries)
    with pytest.raises(
        ValueError, match=r"must have steps of one kind, found .*a pattern"
    ):
        expand([str(tmp_path)], last=1)


def test_files_of_optimizers_beside_are_passed_over(tmp_path: Path) -> None:
    for step in (500, 1000):
        kinds = (
            f"model_{step:06}.pt",
            f"optim_{step:06}_rank0.pt",
            f"meta_{step}.json",
        )
        empty(tmp_path, list(kinds))
    found = choose_checkpoints([str(tmp_path)], last=2)
    assert names(found.paths) == ["model_000500.pt", "model_001000.pt"]
    assert found.notes == []


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*run$"):
        expand([str(tmp_path / "run")], last=3)


def test_a_run_without_readable_checkpoints_says_what_there_is(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"global_step{step}").mkdir()
        (tmp_path / f"global_step{step}/x.distcp").write_bytes(b"")
    for last in (1, 2):
        with pytest.raises(
            ValueError, match=r"2 folders of checkpoints.*without .metadata"
        ):
            expand([str(tmp_path)], last=last)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"contains no readable checkpoints: it is empt"
    ):
        expand([str(tmp_path / "empty")], last=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.safetensors",
            b"version https://git-lfs.github.com/spec",
            "git-LFS pointer",
        ),
        ("a.bin", b"version https://git-lfs.github.com/spec/v1", "git-LFS pointer"),
        ("a.npz", b"x", "is not a complete zip file"),
        ("a.npy", b"\x93NUMPY", r"single NumPy array.*np\.load"),
        ("a.h5", b"\x89HDF\r\n", "HDF5"),
        ("a.bin", b"\x89HDF\r\n", "HDF5"),
        ("a.msgpack", b"x", "msgpack file, as written by Flax"),
        ("a.onnx", b"x", "ONNX graph"),
        ("a.nemo", b"x", "is not a complete tar file"),
        ("a.nemo", b"\x1f\x8b12", "NeMo archive compressed with gzip.*gzip -dc"),
        ("a.keras", b"x", r"Keras archive.*numpy\.savez"),
        ("a.bin", b"GGUF1234", "is a GGUF file of version"),
        ("a.pt", b"\x1f\x8b12", "is compressed with gzip; decompress"),
        ("a.pt", b"\xfd7zXZ\0", "is compressed with xz; decompress"),
        ("a.bin", b"<!DOCTYPE html><html>", "is an HTML page.*token"),
        ("model.safetensors.index.json", b"{}", "pass the directory that it is in"),
        ("ckpt-1.data-00001-of-00002", b"x", r"TensorFlow checkpoint.*load_checkpoint"),
        ("model.ckpt.index", b"x", r"TensorFlow checkpoint.*load_checkpoint"),
        ("saved_model.pb", b"x", "TensorFlow graph.*exported from"),
        ("a.pdparams", b"\x80\x02}", r"PaddlePaddle.*paddle\.load"),
        ("a.tflite", b"x", "TFLite graph.*converted from"),
        ("a.mlmodel", b"x", "Core ML model.*converted from"),
        ("a.pte", b"x", "ExecuTorch program"),
        ("a.engine", b"x", "TensorRT engine.*built from"),
        ("a.bin", b"tjgg\1", "GGML file, the format of llama.cpp before GGUF"),
        ("model", b"", "is empty"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_a_file_holds_is_told_by_its_content(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        plan([tmp_path / name])


@pytest.mark.parametrize(
    "name", ["a.ckpt", "a.pt", "a.sft", "0123abcd", "a.SAFETENSORS"]
)
def test_safetensors_are_read_under_any_name(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, ONE)
    assert average([tmp_path / name]).keys() == ONE.keys()


@pytest.mark.parametrize("name", ["a.pth.tar", "a.PT", "a.safetensors", "a.t7", "blob"])
def test_files_of_torch_are_read_under_any_name(tmp_path: Path, name: str) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / name)
    assert average([tmp_path / name]).keys() == {"w"}


def test_archives_of_torchscript_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/x.py"):
            archive.writestr(name, "x")
    with pytest.raises(ValueError, match=r"TorchScript.*torch\.jit\.load"):
        plan([tmp_path / "a.pt"])


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("a.skops", ["schema.json", "1.npy"], r"skops file.*ModelSoup"),
        ("a.zip", ["data", "policy.pth"], r"Stable-Baselines3.*policy\.pth"),
        ("a.keras", ["config.json", "model.weights.h5"], r"Keras archive.*savez"),
    ],
)
def test_archives_of_other_libraries_are_told(
    tmp_path: Path, name: str, entries: list[str], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for entry in entries:
            archive.writestr(entry, "x")
    with pytest.raises(ValueError, match=message):
        plan([tmp_path / name])


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            torch.nn.Linear(2, 2),
            r"members\[0\] has type Linear; pass its \.state_dict",
        ),
        ({"m": torch.nn.Linear(2, 2)}, r"is a Linear; pass its \.state_dict\(\)"),
        (
            {"m": {"w": np.ones(2)}},
            r"tensor 'm' must be an array .* pass the innermost mapping",
        ),
        ({None: np.ones(2)}, r"tensors must be named by str, found None"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, r"complex64.*view_as_real"),
        (
            {"w": JAGGED},
            r"tensor 'w' is nested; convert it to a dense",
        ),
    ],
    ids=range(6),
)
def test_what_is_no_state_dict_in_memory_is_told_with_the_way(
    member: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        plan([member])


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_in_memory_are_told_with_the_way(tmp_path: Path) -> None:
    state = {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}
    with pytest.raises(ValueError, match=r"'w' has dtype qint8.*dequantize it first"):
        plan([state])
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: tensor 'w' is quantized") as caught:
        plan([tmp_path / "a.pt"])
    assert "Facebook" not in str(caught.value)
