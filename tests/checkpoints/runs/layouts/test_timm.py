"""Runs of timm: files as its CheckpointSaver writes them, best by their own metric.

The files are those of CheckpointSaver and update_summary of timm 1.0.31, made by hand:
timm needs torchvision.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import read_run
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.runs.layouts.golden import (
    assert_same,
    averaged,
    mean,
    names_of,
    state,
)

TOP1 = {0: 50.0, 1: 60.0, 2: 55.0, 3: 70.0, 4: 65.0}
KEPT = (1, 2, 3, 4)


def content(epoch: int, *, ema: bool = True, **more: Any) -> dict[str, Any]:
    """File of an epoch."""
    saved = {
        "epoch": epoch,
        "arch": "tiny",
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
        "version": 2,
        "args": argparse.Namespace(model="tiny", eval_metric="top1"),
        "state_dict": state(epoch),
        "metric": TOP1[epoch],
        "saver": {"best_epoch": 3, "pending": (epoch, TOP1[epoch])},
    }
    return saved | ({"state_dict_ema": average_of(epoch)} if ema else {}) | more


def average_of(epoch: int) -> dict[str, Any]:
    """Running average of an epoch, which is not its state dict."""
    return state(100 + epoch)


def fill(folder: Path, **more: Any) -> Path:
    """Folder after five epochs with a history of four."""
    folder.mkdir()
    for epoch in KEPT:
        torch.save(content(epoch, **more), folder / f"checkpoint-{epoch}.pth.tar")
    os.link(folder / "checkpoint-4.pth.tar", folder / "last.pth.tar")
    os.link(folder / "checkpoint-3.pth.tar", folder / "model_best.pth.tar")
    torch.save(content(4) | {"metric": None}, folder / "recovery-4-10.pth.tar")
    rows = [f"{e},{1 / (e + 1)},{0.5 / (e + 1)},{m},0.1" for e, m in TOP1.items()]
    header = "epoch,train_loss,eval_loss,eval_top1,lr"
    (folder / "summary.csv").write_text("\n".join([header, *rows, ""]))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fill(tmp_path / "train")


def best_of_script(folder: Path, n: int) -> list[int]:
    """Epochs that avg_checkpoints.py takes with --filter 'checkpoint-*.pth.tar'.

    Its usual filter also takes last.pth.tar and model_best.pth.tar, so that their
    epochs count twice.
    """
    files = [torch.load(p, weights_only=False) for p in folder.glob("checkpoint-*")]
    metrics = [(file["metric"], file["epoch"]) for file in files]
    return sorted(epoch for _, epoch in sorted(metrics)[-n:])


@pytest.mark.parametrize("n", [2, 3])
def test_the_best_are_those_of_its_own_script(
    run: Path, tmp_path: Path, n: int
) -> None:
    epochs = best_of_script(run, n)
    assert names_of(run, best=n) == [f"checkpoint-{e}.pth.tar" for e in epochs]
    result = averaged(run, tmp_path / "out.pth", best=n)
    assert_same(result, mean([average_of(epoch) for epoch in epochs]))


def test_without_averages_the_parameters_are_averaged(tmp_path: Path) -> None:
    run = fill(tmp_path / "train", ema=False)
    result = averaged(run, tmp_path / "out.pth", best=2)
    assert_same(result, mean([state(epoch) for epoch in (3, 4)]))


def test_averages_in_some_files_alone_are_not_taken(run: Path, tmp_path: Path) -> None:
    torch.save(content(3, ema=False), run / "checkpoint-3.pth.tar")
    assert any("3 of 4 checkpoints have" in note for note in read_run(run).notes)
    result = averaged(run, tmp_path / "out.pth", best=2)
    assert_same(result, mean([state(epoch) for epoch in (3, 4)]))


def test_metrics_are_in_the_files_and_in_the_summary(run: Path) -> None:
    described = read_run(run)
    assert (described.layout, described.monitor) == ("timm", "metric")
    assert described.lower_is_better == {"metric": False}
    (epoch,) = [c for c in described.checkpoints if c.epoch == 1]
    assert epoch.metrics == {
        "metric": 60.0,
        "train_loss": 0.5,
        "eval_loss": 0.25,
        "eval_top1": 60.0,
    }
    assert names_of(run, best=1, metric="eval_loss") == ["checkpoint-4.pth.tar"]


def test_a_loss_as_metric_is_better_if_lower(tmp_path: Path) -> None:
    arguments = argparse.Namespace(model="tiny", eval_metric="loss")
    run = fill(tmp_path / "train", args=arguments)
    assert names_of(run, best=1) == ["checkpoint-2.pth.tar"]


def test_copies_and_recovery_files_are_not_members(run: Path) -> None:
    torch.save(state(0), run / "averaged.pth")
    roles = {c.path.name: c.role for c in read_run(run).checkpoints}
    assert {n: r for n, r in roles.items() if r != "checkpoint"} == {
        "last.pth.tar": "copy",
        "model_best.pth.tar": "best",
        "recovery-4-10.pth.tar": "other",
        "averaged.pth": "average",
    }
    names = [f"checkpoint-{epoch}.pth.tar" for epoch in (3, 4)]
    assert names_of(run, last=2) == names


def test_an_epoch_that_was_trained_twice_has_its_last_row(run: Path) -> None:
    with (run / "summary.csv").open("a") as file:
        file.write("epoch,train_loss,eval_loss,eval_top1,lr\n3,0.5,0.125,71.5,0.1\n4\n")
    metrics = {c.path.name: c.metrics for c in read_run(run).checkpoints}
    assert metrics["checkpoint-3.pth.tar"]["eval_top1"] == 71.5
    assert "eval_top1" not in metrics["checkpoint-4.pth.tar"]


@pytest.mark.parametrize("metric", [math.nan, math.inf, None])
def test_a_metric_that_is_not_finite_is_not_the_best(run: Path, metric: Any) -> None:
    torch.save(content(3) | {"metric": metric}, run / "checkpoint-3.pth.tar")
    assert names_of(run, best=1) == ["checkpoint-4.pth.tar"]
    assert any("checkpoint-3" in note for note in choose_checkpoints(run, best=1).notes)


def test_a_file_that_is_still_written_is_left_out(run: Path) -> None:
    (run / "last.pth.tar").unlink()
    path = run / "checkpoint-4.pth.tar"
    path.write_bytes(path.read_bytes()[:3000])
    torch.save(content(4), run / "tmp.pth.tar")
    assert names_of(run, last=1) == ["checkpoint-3.pth.tar"]
    assert names_of(run, best=1) == ["checkpoint-3.pth.tar"]
