"""Runs of NeMo: files of Lightning and distributed checkpoints, by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import read_run
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.runs.layouts.golden import (
    State,
    assert_same,
    averaged,
    counters,
    mean,
    names_of,
    save_distributed,
    state,
)

RATES = {0: 0.9, 1: 0.4, 2: 0.5, 3: 0.3, 4: 0.6}  # val_wer by epoch
NAME = "FastConformer-CTC-BPE"


def save(path: Path, seed: int, step: int, **more: Any) -> None:
    """File of Lightning."""
    content = {"epoch": seed, "global_step": step, "state_dict": state(seed), **more}
    torch.save(content, path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a version, after five epochs of which the best and last are kept."""
    folder = tmp_path / "2026-01-01_10-00-00"
    inside = folder / "checkpoints"
    inside.mkdir(parents=True)
    for epoch, rate in RATES.items():
        name = f"{NAME}--val_wer={rate:.4f}-epoch={epoch}"
        save(inside / f"{name}.ckpt", epoch, 100 * (epoch + 1))
        save(inside / f"{name}-EMA.ckpt", 50, 100 * (epoch + 1))
    save(inside / f"{NAME}--val_wer=0.6000-epoch=4-last.ckpt", 4, 500)
    (inside / f"{NAME}.nemo").write_bytes(b"\0" * 1024)
    return folder


def members_of_script(folder: Path) -> list[State]:
    """State dicts that checkpoint_averaging.py takes; without EMA it has no others."""
    paths = [p for p in folder.iterdir() if p.suffix == ".ckpt" and "EMA" not in p.name]
    paths = [path for path in paths if not path.name.endswith("-last.ckpt")]
    return [torch.load(path, weights_only=True)["state_dict"] for path in sorted(paths)]


def test_all_epochs_are_those_of_its_own_script(run: Path, tmp_path: Path) -> None:
    expected = members_of_script(run / "checkpoints")
    assert len(names_of(run, epochs=":")) == len(expected) == 5
    result = averaged(run, tmp_path / "out.ckpt", epochs=":")
    assert_same(result, mean([state(epoch) for epoch in RATES]))


def test_metrics_and_epochs_are_in_the_names_and_steps_in_the_files(run: Path) -> None:
    described = read_run(run)
    assert (described.layout, described.monitor) == ("nemo", "val_wer")
    found = {counters(c): c.metrics for c in described.checkpoints if c.metrics}
    assert found[300, 2] == {"val_wer": 0.5}
    best = choose_checkpoints(run, best=2)
    assert [c.epoch for c in best.checkpoints] == [1, 3]


def test_averages_exports_and_copies_are_not_members(run: Path) -> None:
    roles = {c.path.name: c.role for c in read_run(run).checkpoints}
    assert roles[f"{NAME}--val_wer=0.6000-epoch=4-last.ckpt"] == "copy"
    assert roles[f"{NAME}--val_wer=0.6000-epoch=4-EMA.ckpt"] == "average"
    assert names_of(run, last=1) == [f"{NAME}--val_wer=0.6000-epoch=4.ckpt"]


def test_the_last_counts_if_no_other_checkpoint_has_its_step(run: Path) -> None:
    last = f"{NAME}--val_wer=0.6000-epoch=4-last.ckpt"
    (run / "checkpoints" / f"{NAME}--val_wer=0.6000-epoch=4.ckpt").unlink()
    assert names_of(run, last=1) == [last]


def test_a_checkpoint_with_a_marker_is_not_complete(run: Path) -> None:
    name = f"{NAME}--val_wer=0.3000-epoch=3"
    (run / "checkpoints" / f"{name}-unfinished").touch()
    assert f"{name}.ckpt" not in names_of(run, epochs=":")
    assert any(f"{name}.ckpt" in note for note in read_run(run).notes)


def test_the_folder_of_the_checkpoints_may_be_named_itself(run: Path) -> None:
    assert names_of(run / "checkpoints", best=1) == names_of(run, best=1)


@pytest.mark.parametrize("subfolder", ["weights", ""])
def test_distributed_checkpoints_are_read_by_their_names(
    tmp_path: Path, subfolder: str
) -> None:
    for step, loss in ((100, 2.5), (200, 2.25), (300, 1.5)):
        name = f"default--val_loss={loss}-epoch=0-consumed_samples={step * 8}.0"
        folder = tmp_path / name / subfolder
        folder.mkdir(parents=True)
        save_distributed(state(step, prefix="module."), folder)
        torch.save({"epoch": 0, "global_step": step}, folder / "common.pt")
        (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    run = read_run(tmp_path)
    assert (run.layout, run.monitor) == ("nemo", "val_loss")
    assert [counters(c) for c in run.checkpoints] == [
        (100, 0),
        (200, 0),
        (300, 0),
    ]
    result = averaged(tmp_path, tmp_path / "out.pt", best=2)
    assert_same(result, mean([state(step) for step in (200, 300)]))


@pytest.mark.parametrize(
    ("name", "epoch", "step", "metrics"),
    [
        ("default--None=0.0000-epoch=0-step=40", 0, 40, {}),
        ("gpt--val_loss=1.5e-05-step=7-epoch=1", 1, 7, {"val_loss": 1.5e-5}),
        ("model_name=0--val_loss=1.44-step=49", None, 49, {"val_loss": 1.44}),
        ("QuartzNet---val_wer=0.08-epoch=97-step=9", 97, 9, {"val_wer": 0.08}),
        ("--reward=-1.25-epoch=0-step=9", 0, 9, {"reward": -1.25}),
    ],
)
def test_names_of_all_kinds_are_parsed(
    tmp_path: Path, name: str, epoch: int | None, step: int, metrics: dict[str, float]
) -> None:
    save(tmp_path / f"{name}.ckpt", 1, step)
    (found,) = read_run(tmp_path).checkpoints
    assert counters(found) == (step, epoch)
    assert found.metrics == metrics
