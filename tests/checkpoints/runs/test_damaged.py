"""Runs whose files have values of any type: each is read, with or without notes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ensembles.checkpoints import read_run

JUNK: list[Any] = [
    None,
    "",
    "text",
    True,
    -1,
    10**400,
    1e400,
    float("nan"),
    [],
    [[]],
    {},
    {"epoch": {}},
    [{"epoch": []}],
]
Write = Callable[[Path, Callable[[Any], Any]], None]


def damaged(value: Any, rng: random.Random, junk: list[Any]) -> Any:
    """Value with some of its parts replaced."""
    if rng.random() < 0.15:
        return rng.choice(junk)
    if isinstance(value, dict):
        return {name: damaged(part, rng, junk) for name, part in value.items()}
    if isinstance(value, list):
        return [damaged(part, rng, junk) for part in value]
    return value


def save(path: Path, content: Any) -> None:
    """Write a file of torch, with a state dict if the content is a mapping."""
    if isinstance(content, dict):
        state = {"w": torch.tensor([float(sum(path.name.encode()))])}
        content = {**content, "model": state}
    torch.save(content, path)


def trainer(folder: Path, damage: Callable[[Any], Any]) -> None:
    for step in (10, 20):
        inside = folder / f"checkpoint-{step}"
        inside.mkdir()
        save_file({"w": np.ones(2, np.float32)}, inside / "model.safetensors")
        log = [{"step": step, "eval_loss": 1.0}, {"step": step, "eval_acc": 0.5}]
        state = {"epoch": 1.0, "num_input_tokens_seen": 5, "log_history": log}
        (inside / "trainer_state.json").write_text(json.dumps(damage(state)))
        arguments = {"metric_for_best_model": "acc", "greater_is_better": True}
        torch.save(damage(arguments), inside / "training_args.bin")


def lightning(folder: Path, damage: Callable[[Any], Any]) -> None:
    for epoch in (1, 2):
        name = f"epoch={epoch}.ckpt"
        scores = {f"/x/{name}": torch.tensor(0.5), "y": np.float64(3)}
        callback = {"monitor": "val_loss", "best_k_models": scores}
        content = {
            "epoch": epoch,
            "global_step": 10 * epoch,
            "callbacks": {"ModelCheckpoint{'mode': 'min'}": callback},
        }
        save(folder / name, damage(content))


def skorch(folder: Path, damage: Callable[[Any], Any]) -> None:
    rows = [
        {"epoch": e, "valid_loss": 1 / e, "valid_loss_best": True, "dur": 0.1}
        for e in (1, 2, 3)
    ]
    (folder / "history.json").write_text(json.dumps(damage(rows)))
    for epoch in (1, 2, 3):
        torch.save({"w": torch.ones(2)}, folder / f"params_{epoch}.pt")


def fairseq(folder: Path, damage: Callable[[Any], Any]) -> None:
    for updates in (10, 20):
        content = {
            "args": {"best_checkpoint_metric": "bleu"},
            "cfg": {"checkpoint": {"best_checkpoint_metric": "ppl"}},
            "optimizer_history": [{"num_updates": updates}],
            "extra_state": {"val_loss": 3.5},
        }
        save(folder / f"checkpoint_1_{updates}.pt", damage(content))


def funasr(folder: Path, damage: Callable[[Any], Any]) -> None:
    for name in ("model.pt.ep1", "model.pt.ep2", "model.pt"):
        content = {
            "val_acc_step_or_eoch": {"model.pt.ep1": 0.5, "model.pt.ep2": 0.75},
            "val_loss_step_or_eoch": {"model.pt.ep1": 0.5},
            "avg_keep_nbest_models_type": "acc",
            "batch_total": 5,
        }
        save(folder / name, damage(content))


def nanochat(folder: Path, damage: Callable[[Any], Any]) -> None:
    for step in (1, 2):
        torch.save({"w": torch.ones(2)}, folder / f"model_{step:06d}.pt")
        meta = {"step": step, "val_bpb": 0.5}
        (folder / f"meta_{step:06d}.json").write_text(json.dumps(damage(meta)))


def olmo(folder: Path, damage: Callable[[Any], Any]) -> None:
    for step in (1, 2):
        inside = folder / f"step{step}-unsharded"
        inside.mkdir()
        torch.save({"w": torch.ones(2)}, inside / "model.pt")
        state = {"global_train_tokens_seen": 5, "epoch": 1}
        torch.save(damage(state), inside / "train.pt")


def espnet(folder: Path, damage: Callable[[Any], Any]) -> None:
    stats = {e: {"valid": {"acc": np.float64(e), "loss": 1.0}} for e in (1, 2)}
    content = {"model": {}, "reporter": {"stats": stats, "epoch": 2}}
    torch.save(damage(content), folder / "checkpoint.pth")
    for epoch in (1, 2):
        torch.save({"w": torch.ones(2) * epoch}, folder / f"{epoch}epoch.pth")


def icefall(folder: Path, damage: Callable[[Any], Any]) -> None:
    for epoch in (1, 2):
        damaged_loss = damage({"train_loss": 0.5, "average_period": 10})
        loss = damaged_loss if isinstance(damaged_loss, dict) else {}
        save(folder / f"epoch-{epoch}.pt", loss | {"batch_idx_train": 100 * epoch})


def nemo(folder: Path, damage: Callable[[Any], Any]) -> None:
    for epoch in (1, 2):
        content = {"global_step": 10 * epoch, "epoch": epoch}
        save(folder / f"m--val_loss=0.{epoch}-epoch={epoch}.ckpt", damage(content))


def timm(folder: Path, damage: Callable[[Any], Any]) -> None:
    (folder / "summary.csv").write_text(f"epoch,eval_top1\n1,2\n{damage('2,3')}\n")
    for epoch in (1, 2):
        content = {"metric": 1.5, "args": {"eval_metric": "loss"}, "epoch": epoch}
        save(folder / f"checkpoint-{epoch}.pth.tar", damage(content))


@pytest.mark.parametrize(
    "write",
    [
        *(trainer, lightning, skorch, fairseq, funasr, nanochat, olmo),
        *(espnet, icefall, nemo, timm),
    ],
)
def test_values_of_any_type_are_read_past(write: Write, tmp_path: Path) -> None:
    for seed in range(25):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        junk = JUNK if write in (trainer, skorch, nanochat) else [*JUNK, torch.ones(3)]
        write(folder, lambda value, r=rng, j=junk: damaged(value, r, j))  # type: ignore[misc]
        run = read_run(folder)
        counted = [c for c in run.checkpoints if c.role == "checkpoint"]
        assert len(counted) >= 2
        for checkpoint in counted:
            assert all(isinstance(v, float) for v in checkpoint.metrics.values())
        assert all("\n" not in note for note in run.notes)
