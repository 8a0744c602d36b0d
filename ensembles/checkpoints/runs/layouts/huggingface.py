"""Runs of the Hugging Face Trainer.

Sources: ``Trainer._save_checkpoint`` and ``TrainerState`` in transformers. The epoch is
a fraction of the training data. ``training_args.bin`` has the metric of the best model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ensembles.checkpoints.runs.beside import (
    as_decimal,
    json_beside,
    noted,
    pytorch_beside,
)
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.registry import register

STATE = "trainer_state.json"
ARGUMENTS = "training_args.bin"
PREFIX = "eval_"  # of metrics in the log


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
    monitor, lower_is_better = _monitor(checkpoints, notes)
    return replace(
        run,
        checkpoints=tuple(checkpoints),
        notes=tuple(notes),
        monitor=monitor,
        lower_is_better=lower_is_better,
    )


def _described(checkpoint: RunCheckpoint, state: dict[str, Any]) -> RunCheckpoint:
    metrics: dict[str, float] = {}
    for entry in state.get("log_history", []):
        if entry["step"] == checkpoint.step:
            metrics |= {k: float(v) for k, v in entry.items() if k.startswith(PREFIX)}
    return replace(
        checkpoint,
        epoch=as_decimal(state.get("epoch")),
        tokens=as_decimal(state.get("num_input_tokens_seen")) or None,
        metrics=metrics,
    )


def _monitor(
    checkpoints: list[RunCheckpoint], notes: list[str]
) -> tuple[str | None, dict[str, bool]]:
    """Metric of the best model, and whether lower values are better."""
    if not checkpoints:
        return None, {}
    arguments = pytorch_beside(checkpoints[-1].path / ARGUMENTS, notes)
    name = arguments.get("metric_for_best_model") if arguments else None
    if not isinstance(name, str):
        return None, {}
    name = name if name.startswith(PREFIX) else f"{PREFIX}{name}"
    greater = arguments.get("greater_is_better") if arguments else None
    return name, {name: not greater} if isinstance(greater, bool) else {}
