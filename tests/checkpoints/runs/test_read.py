"""Folders of runs: unfinished, damaged and mixed checkpoints."""

from __future__ import annotations

import json
from argparse import Namespace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ensembles.checkpoints import RunCheckpoint, choose_checkpoints, read_run
from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.runs import entries
from ensembles.checkpoints.runs.read import in_order

ONE = {"w": np.zeros(2, np.float32)}


def trainer_run(folder: Path, *steps: int, **state: Any) -> Path:
    """Folder as the Hugging Face Trainer writes it."""
    for step in steps:
        inside = folder / f"checkpoint-{step}"
        inside.mkdir(parents=True)
        save_file(ONE, inside / "model.safetensors")
        log = [
            {"step": step, "epoch": step / 40, "loss": 9.0},
            {"step": step, "epoch": step / 40, "eval_loss": 1 / step},
        ]
        values = {"epoch": step / 40, "global_step": step, "log_history": log, **state}
        (inside / "trainer_state.json").write_text(json.dumps(values))
    return folder


def roles(folder: Path) -> dict[str, str]:
    return {c.path.name: c.role for c in read_run(folder).checkpoints}


def test_evaluations_of_the_hugging_face_trainer_are_metrics(tmp_path: Path) -> None:
    run = read_run(trainer_run(tmp_path, 100, 20, num_input_tokens_seen=4096))
    assert (run.layout, run.notes) == ("huggingface_trainer", ())
    assert [(c.step, c.epoch, c.metrics) for c in run.checkpoints] == [
        (Decimal(20), Decimal("0.5"), {"eval_loss": 0.05}),
        (Decimal(100), Decimal("2.5"), {"eval_loss": 0.01}),
    ]
    assert {c.tokens for c in run.checkpoints} == {Decimal(4096)}


def test_other_folders_are_read_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for name in ("model_300.safetensors", "model_20.safetensors"):
        save_file(ONE, tmp_path / name)
    run = read_run(tmp_path)
    assert run.layout == "numbers"
    assert [c.step for c in run.checkpoints] == [Decimal(20), Decimal(300)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff",
        b'{"log_history": 3}',
        b'{"log_history": [3]}',
        b'{"log_history": [{"step": 20, "eval_loss": "low"}]}',
        b'{"log_history": [{"step": 20, "eval_loss": null}]}',
        b'{"epoch": "NaN", "log_history": [{}]}',
    ],
)
def test_a_damaged_state_is_one_note(tmp_path: Path, content: bytes) -> None:
    trainer_run(tmp_path, 20, 100)
    state = tmp_path / "checkpoint-20" / "trainer_state.json"
    state.write_bytes(content)
    run = read_run(tmp_path)
    assert [c.step for c in run.checkpoints] == [20, 100]
    assert [c.metrics for c in run.checkpoints] == [{}, {"eval_loss": 0.01}]
    (note,) = run.notes
    assert note.startswith(str(state))
    assert note.endswith("; its steps and metrics are not used")
    assert "\n" not in note


def shorten(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def test_checkpoints_that_are_still_being_written_do_not_count(tmp_path: Path) -> None:
    trainer_run(tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "checkpoint-2/model.safetensors").unlink()
    shorten(tmp_path / "checkpoint-3/model.safetensors", 1)
    index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (tmp_path / "checkpoint-4/model.safetensors").unlink()
    (tmp_path / "checkpoint-4/model.safetensors.index.json").write_text(
        json.dumps(index)
    )
    (tmp_path / "checkpoint-5/model.safetensors").write_bytes(b"")
    chosen = choose_checkpoints(tmp_path, steps=":")
    assert [Path(path).name for path in chosen.paths] == ["checkpoint-1"]
    assert len(chosen.notes) == 4
    for step, note in zip((2, 3, 4, 5), chosen.notes, strict=True):
        fault = "it has no readable weights" if step == 2 else "it is not completely"
        assert note.startswith(f"skipped checkpoint-{step}: {fault}")


@pytest.mark.parametrize("size", [0, 1, 100, -60])
def test_a_truncated_pytorch_file_does_not_count(tmp_path: Path, size: int) -> None:
    for step in (1, 2):
        torch.save({"w": torch.ones(2)}, tmp_path / f"m-{step}.pt")
    content = (tmp_path / "m-2.pt").read_bytes()
    (tmp_path / "m-2.pt").write_bytes(content[:size])
    expected = "checkpoint" if size == 1 else "unfinished"  # one byte has any format
    assert roles(tmp_path) == {"m-1.pt": "checkpoint", "m-2.pt": expected}


def test_a_run_of_unfinished_checkpoints_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "m-1.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"complete checkpoint .*m-1\.pt.*it is empty"):
        choose_checkpoints(tmp_path, last=1)


def test_a_link_to_a_missing_file_does_not_count(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "m-1.safetensors")
    (tmp_path / "m-2.safetensors").symlink_to("missing")
    chosen = choose_checkpoints(tmp_path, last=1)
    assert [Path(path).name for path in chosen.paths] == ["m-1.safetensors"]
    assert "a link to a file that does not exist" in chosen.notes[0]


def test_a_link_to_another_checkpoint_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    for name in ("run/m-2", "other"):
        save_file(ONE, tmp_path / f"{name}.safetensors")
    for step, target in ((1, "m-2"), (3, "../other"), (4, "../other"), (5, "m-5")):
        link = tmp_path / f"run/m-{step}.safetensors"
        link.symlink_to(f"{target}.safetensors")
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "run", Path("run"), tmp_path / "link"):
        chosen = choose_checkpoints(folder, steps=":")
        assert chosen.steps == [2, 3]
        assert "m-5.safetensors: it is a link to a file that" in chosen.notes[0]
        skipped = "skipped m-1.safetensors, m-4.safetensors: they are links to other"
        assert skipped in chosen.notes[1]


def test_other_files_with_names_of_a_trainer_are_not_its_run(tmp_path: Path) -> None:
    for step in (1, 2):
        save_file(ONE, tmp_path / f"epoch_{step}.safetensors")
    (tmp_path / "step1").write_text("a log")
    (tmp_path / "step2").mkdir()
    assert choose_checkpoints(tmp_path, last=2).steps == [1, 2]
    trainer_run(tmp_path / "run", 100, 200)
    (tmp_path / "run/checkpoint-300").write_text("a log")
    chosen = choose_checkpoints(tmp_path / "run", last=2)
    assert chosen.steps == [100, 200]
    message = "skipped checkpoint-300: its content is not that of a checkpoint"
    assert chosen.notes == [message]
    save_file(ONE, tmp_path / "run/epoch-9.safetensors")
    assert (
        "names are not of the layout"
        in choose_checkpoints(tmp_path / "run", last=1).notes[-1]
    )


def test_best_is_not_in_place_of_an_unfinished_step(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "best.safetensors")
    assert len(choose_checkpoints(tmp_path, last=1).paths) == 1
    (tmp_path / "m-1.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"complete checkpoint of its own.*is empty"):
        choose_checkpoints(tmp_path, last=1)


def test_a_checkpoint_that_the_trainer_removes_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_run(tmp_path, 1, 2)
    removed = tmp_path / "checkpoint-1" / "model.safetensors"
    opened = FileSource

    def remove(path: Path) -> Any:
        removed.unlink(missing_ok=True)
        return opened(path)

    monkeypatch.setattr(entries, "FileSource", remove)
    chosen = choose_checkpoints(tmp_path, steps=":")
    assert chosen.steps == [2]
    assert chosen.notes[0] == f"skipped checkpoint-1: {removed} was removed"


def test_files_of_one_step_with_equal_tensors_are_one_checkpoint(
    tmp_path: Path,
) -> None:
    for name, value in (("epoch=1-step=5", 1), ("best-epoch=2-step=9", 2)):
        torch.save(
            {"state_dict": {"w": torch.full((2,), value)}}, tmp_path / f"{name}.ckpt"
        )
    torch.save(
        {"state_dict": {"w": torch.full((2,), 2)}, "x": 3},
        tmp_path / "epoch=2-step=9.ckpt",
    )
    assert roles(tmp_path) == {
        "epoch=1-step=5.ckpt": "checkpoint",
        "best-epoch=2-step=9.ckpt": "checkpoint",
        "epoch=2-step=9.ckpt": "copy",
    }
    torch.save(
        {"state_dict": {"w": torch.full((2,), 3)}}, tmp_path / "epoch=2-step=9.ckpt"
    )
    with pytest.raises(
        ValueError, match=r"different steps, found .*best-.* -> 9, .*9;"
    ):
        choose_checkpoints(tmp_path, last=2)


def test_checkpoints_are_in_the_order_of_a_counter_that_all_have() -> None:
    one = RunCheckpoint(path=Path("a"), step=Decimal(100), epoch=Decimal(1))
    two = RunCheckpoint(path=Path("b"), epoch=Decimal(2))
    three = RunCheckpoint(path=Path("c"), step=Decimal(300), epoch=Decimal(3))
    assert in_order([three, two, one]) == (one, two, three)


def test_a_checkpoint_or_a_file_is_not_a_run(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="it is a checkpoint itself"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="must be a folder, found the file"):
        read_run(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no training run at"):
        read_run(tmp_path / "absent")


def test_a_folder_of_runs_is_one_error_that_names_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trainer_run(tmp_path / name, 100)
    with pytest.raises(ValueError, match=r"but its folders a, b do; pass one of them$"):
        read_run(tmp_path)
    for step in (1, 2):
        (tmp_path / f"steps/{step}").mkdir(parents=True)
        save_file(ONE, tmp_path / f"steps/{step}/net.safetensors")
    with pytest.raises(ValueError, match=r"or a pattern .*steps/\*/net\.safetensors'$"):
        read_run(tmp_path / "steps")
    pattern = str(tmp_path / "steps/*/net.safetensors")
    assert choose_checkpoints(pattern, steps=":").steps == [1, 2]


def test_a_metric_of_the_best_that_was_never_logged_is_left_out(tmp_path: Path) -> None:
    trainer_run(tmp_path, 100)
    settings = Namespace(metric_for_best_model="epoch", greater_is_better=True)
    torch.save(settings, tmp_path / "checkpoint-100/training_args.bin")
    assert read_run(tmp_path).monitor is None
    assert len(choose_checkpoints(tmp_path, best=1).paths) == 1
