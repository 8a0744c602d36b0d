"""Steps, epochs and metrics of the checkpoints of a run."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ensembles.checkpoints import read_run


def test_evaluations_of_the_hugging_face_trainer_are_metrics(tmp_path: Path) -> None:
    for step in (100, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": np.zeros(2, np.float32)}, folder / "model.safetensors")
        log = [
            {"step": step, "epoch": step / 40, "loss": 9.0},
            {"step": step, "epoch": step / 40, "eval_loss": 1 / step},
        ]
        state = {"epoch": step / 40, "global_step": step, "log_history": log}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    run = read_run(tmp_path)
    assert run.layout == "huggingface_trainer"
    assert [(c.step, c.epoch, c.metrics) for c in run.checkpoints] == [
        (Decimal(20), Decimal("0.5"), {"eval_loss": 0.05}),
        (Decimal(100), Decimal("2.5"), {"eval_loss": 0.01}),
    ]


def test_other_folders_are_read_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for name in ("model_300.safetensors", "model_20.safetensors"):
        save_file({"w": np.zeros(2, np.float32)}, tmp_path / name)
    run = read_run(tmp_path)
    assert [c.step for c in run.checkpoints] == [Decimal(20), Decimal(300)]
