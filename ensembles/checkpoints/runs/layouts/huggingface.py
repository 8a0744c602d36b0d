"""Runs of the Hugging Face Trainer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ensembles.checkpoints.runs.beside import as_decimal, json_beside, noted
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.registry import register

STATE = "trainer_state.json"


@register(
    LAYOUTS,
    trainer="Hugging Face Trainer",
    names=[r"checkpoint-(?P<step>\d+)"],
    markers=[f"checkpoint-*/{STATE}"],
)
def huggingface_trainer(run: Run) -> Run:
    """Evaluations are in ``log_history`` of ``trainer_state.json``."""
    notes = list(run.notes)
    checkpoints = []
    for checkpoint in run.checkpoints:
        path = checkpoint.path / STATE
        state = json_beside(path, notes)
        with noted(path, notes):
            checkpoint = _described(checkpoint, state or {})
        checkpoints.append(checkpoint)
    return replace(run, checkpoints=tuple(checkpoints), notes=tuple(notes))


def _described(checkpoint: RunCheckpoint, state: dict[str, Any]) -> RunCheckpoint:
    metrics: dict[str, float] = {}
    for entry in state.get("log_history", []):
        if entry["step"] == checkpoint.step:
            metrics |= {k: float(v) for k, v in entry.items() if k.startswith("eval_")}
    return replace(
        checkpoint,
        epoch=as_decimal(state.get("epoch")),
        tokens=as_decimal(state.get("num_input_tokens_seen")) or None,
        metrics=metrics,
    )
