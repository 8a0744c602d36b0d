"""Runs of the Hugging Face Trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from ensembles.checkpoints.runs.layout import LAYOUTS
from ensembles.checkpoints.runs.run import RunCheckpoint
from ensembles.registry import register

STATE = "trainer_state.json"


@register(
    LAYOUTS,
    trainer="Hugging Face Trainer",
    names=[r"checkpoint-(?P<step>\d+)"],
    markers=[f"checkpoint-*/{STATE}"],
)
def huggingface_trainer(
    folder: Path, checkpoints: Sequence[RunCheckpoint]
) -> Iterator[RunCheckpoint]:
    """Evaluations are in ``log_history`` of ``trainer_state.json``."""
    for checkpoint in checkpoints:
        state = json.loads((checkpoint.path / STATE).read_text())
        metrics: dict[str, float] = {}
        for entry in state["log_history"]:
            if entry["step"] == checkpoint.step:
                metrics |= {k: v for k, v in entry.items() if k.startswith("eval_")}
        yield replace(checkpoint, epoch=Decimal(str(state["epoch"])), metrics=metrics)
