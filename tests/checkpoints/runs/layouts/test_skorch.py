"""Runs that skorch has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import read_run
from tests.checkpoints.runs.layouts.golden import check_run

skorch = pytest.importorskip("skorch")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five epochs with a checkpoint each, the best and the last ones."""
    folder = tmp_path_factory.mktemp("skorch")
    callbacks = skorch.callbacks
    name = "params_{last_epoch[epoch]}.pt"
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(
        torch.nn.Linear(4, 2),
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=5,
        lr=0.5,
        verbose=0,
        callbacks=[
            ("all", callbacks.Checkpoint(monitor=None, f_params=name, dirname=folder)),
            ("best", callbacks.Checkpoint(dirname=folder, f_history=None)),
            ("end", callbacks.TrainEndCheckpoint(dirname=folder, f_history=None)),
        ],
    )
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    net.fit(x, (x.sum(1) > 0).astype(np.int64))
    return folder


def history(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "history.json").read_text()))


def test_epochs_have_the_metrics_of_the_history(run: Path) -> None:
    read = read_run(run)
    assert (read.layout, read.notes) == ("skorch", ())
    assert read.monitor == "valid_loss"
    assert read.lower_is_better == {
        "train_loss": True,
        "valid_loss": True,
        "valid_acc": False,
    }
    own = [c for c in read.checkpoints if c.role == "checkpoint"]
    assert [c.epoch for c in own] == [1, 2, 3, 4, 5]
    for checkpoint, row in zip(own, history(run), strict=True):
        assert checkpoint.metrics["valid_loss"] == row["valid_loss"]
        assert checkpoint.metrics["valid_acc"] == row["valid_acc"]
    roles = {c.path.name: c.role for c in read.checkpoints if c not in own}
    assert roles["params.pt"] == "best"
    assert roles["train_end_params.pt"] == "copy"


def test_the_best_are_those_of_the_history(run: Path) -> None:
    ranked = sorted(history(run), key=lambda row: float(row["valid_loss"]))
    for n in (1, 3):
        expected = [run / f"params_{row['epoch']}.pt" for row in ranked[:n]]
        check_run(run, expected, [], best=n)
    last = [run / f"params_{epoch}.pt" for epoch in (4, 5)]
    check_run(run, last, [], last=2)
    check_run(run, last, [], epochs="4:")


def test_a_damaged_history_is_one_note(run: Path, tmp_path: Path) -> None:
    for path in run.glob("params_*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for text in ("[{]", "[3]", '{"epoch": 1}', '[{"valid_loss": 1}]'):
        (tmp_path / "history.json").write_text(text)
        read = read_run(tmp_path)
        assert len(read.notes) == 1
        assert [c.epoch for c in read.checkpoints] == [1, 2, 3, 4, 5]
