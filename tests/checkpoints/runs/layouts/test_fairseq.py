"""Runs of fairseq, with files as its ``save_checkpoint`` writes them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import choose_checkpoints, read_run
from tests.checkpoints.runs.layouts.golden import check_run

EPOCHS = r"checkpoint(\d+)\.pt"
UPDATES = r"checkpoint_\d+_(\d+)\.pt"


def by_script(folder: Path, pattern: str, n: int, upper: float = 1e9) -> list[Path]:
    """Choose as ``last_n_checkpoints`` of scripts/average_checkpoints.py does."""
    numbers = {}
    for path in folder.iterdir():
        match = re.fullmatch(pattern, path.name)
        if match and int(match[1]) <= upper:
            numbers[int(match[1])] = path
    assert len(numbers) >= n
    return [numbers[number] for number in sorted(numbers, reverse=True)[:n]]


def write(path: Path, epoch: int, updates: int, loss: float, **settings: Any) -> None:
    torch.manual_seed(updates)
    content = {
        "cfg": None,
        "args": argparse.Namespace(**settings) if settings else None,
        "model": {"w": torch.randn(3, 4), "b": torch.randn(4).half()},
        "optimizer_history": [{"num_updates": 1}, {"num_updates": updates}],
        "extra_state": {
            "train_iterator": {"epoch": epoch, "version": 2},
            "val_loss": loss,
            "best": 0.5,
        },
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.randn(3, 4)}}},
    }
    torch.save(content, path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Epochs and updates, the best and the last ones."""
    for epoch in range(1, 13):
        write(tmp_path / f"checkpoint{epoch}.pt", epoch, 100 * epoch, 20 - epoch)
        updates = 100 * epoch + 50
        name = f"checkpoint_{epoch + 1}_{updates}.pt"
        write(tmp_path / name, epoch + 1, updates, abs(epoch - 7.5))
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        write(tmp_path / name, 12, 1250, 0.5)
    write(tmp_path / "checkpoint.best_loss_0.50.pt", 12, 1250, 0.5)
    return tmp_path


def test_epochs_and_updates_are_averaged_as_by_the_script(run: Path) -> None:
    for n, upper in ((5, 10), (2, 12), (1, 1)):
        expected = by_script(run, EPOCHS, n, upper)
        check_run(run, expected, ["model"], epochs=f":{upper}", last=n)
    for n, upper in ((5, 1000), (3, 649), (12, 1250)):
        expected = by_script(run, UPDATES, n, upper)
        check_run(run, expected, ["model"], steps=f":{upper}", last=n)


def test_epochs_and_updates_are_not_mixed(run: Path) -> None:
    message = r"steps of one kind, found epoch .*, step .*--steps :.*--epochs :"
    with pytest.raises(ValueError, match=message):
        choose_checkpoints(run, last=5)
    skipped = "checkpoint.best_loss_0.50.pt, checkpoint_best.pt, checkpoint_last.pt"
    chosen = choose_checkpoints(run, epochs=":", last=5)
    assert skipped in chosen.notes[0]
    assert chosen.key == ("model",)


def test_epochs_alone_have_the_updates_in_the_files(tmp_path: Path) -> None:
    for epoch in (9, 10):
        write(tmp_path / f"checkpoint{epoch}.pt", epoch, 100 * epoch, 1.0)
    write(tmp_path / "checkpoint_last.pt", 10, 1000, 1.0)
    run = read_run(tmp_path)
    assert [c.epoch for c in run.checkpoints[:2]] == [9, 10]
    assert [c.step for c in run.checkpoints[:2]] == [900, 1000]
    (note,) = choose_checkpoints(run, last=1).notes
    assert note.endswith(
        "skipped checkpoint_last.pt: another checkpoint has the same step"
    )
    write(tmp_path / "checkpoint_last.pt", 11, 1050, 1.0)
    (note,) = choose_checkpoints(tmp_path, last=1).notes
    assert note.endswith("their names are those of copies of other checkpoints")


def test_the_best_are_by_the_metric_in_the_settings(run: Path, tmp_path: Path) -> None:
    read = read_run(run)
    assert (read.monitor, read.lower_is_better) == ("val_loss", {"val_loss": True})
    check_run(
        run,
        [run / "checkpoint_8_750.pt", run / "checkpoint_9_850.pt"],
        ["model"],
        steps=":",
        best=2,
    )
    folder = tmp_path / "bleu"
    folder.mkdir()
    settings = {
        "best_checkpoint_metric": "bleu",
        "maximize_best_checkpoint_metric": True,
    }
    for updates, bleu in ((10, 30.5), (20, 28), (30, 29)):
        path = folder / f"checkpoint_1_{updates}.pt"
        write(path, 1, updates, bleu, **settings)
    read = read_run(folder)
    assert (read.monitor, read.lower_is_better) == ("bleu", {"bleu": False})
    best = [folder / "checkpoint_1_10.pt", folder / "checkpoint_1_30.pt"]
    check_run(folder, best, ["model"], best=2)


def test_settings_of_omegaconf_are_read(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    settings = {
        "checkpoint": {
            "best_checkpoint_metric": "ppl",
            "maximize_best_checkpoint_metric": False,
        }
    }
    path = tmp_path / "checkpoint_1_10.pt"
    write(path, 1, 10, 3.5)
    content = torch.load(path, weights_only=False)
    content["cfg"] = omegaconf.OmegaConf.create(settings)
    torch.save(content, path)
    read = read_run(tmp_path)
    assert (read.monitor, read.lower_is_better) == ("ppl", {"ppl": True})
    assert read.checkpoints[0].metrics == {"ppl": 3.5}
