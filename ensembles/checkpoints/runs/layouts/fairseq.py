"""Runs of fairseq.

Sources: ``save_checkpoint`` in fairseq/checkpoint_utils.py, and
scripts/average_checkpoints.py. A run has checkpoints of epochs (``checkpointE.pt``), of
updates (``checkpoint_E_U.pt``) or both; the script averages one kind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.runs.beside import (
    PytorchContents,
    noted,
    pytorch_beside,
)
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.registry import register

METRIC = "val_loss"  # unless the settings name the metric


@register(
    LAYOUTS,
    trainer="fairseq",
    names=[
        r"checkpoint(?P<epoch>\d+)\.pt",
        r"checkpoint_\d+_(?P<step>\d+)\.pt",
    ],
    roles={
        "best": r"checkpoint_best\.pt|checkpoint\.best_.*\.pt",
        "copy": r"checkpoint_last\.pt",
    },
    markers=["checkpoint_last.pt", "checkpoint_best.pt", "checkpoint_*_*.pt"],
    key=("model",),
)
def fairseq(run: Run) -> Run:
    """The value of the metric is in each file, as ``val_loss`` in ``extra_state``."""
    notes = list(run.notes)
    has_updates = any(c.role == "checkpoint" and c.step for c in run.checkpoints)
    checkpoints, monitor, lower_is_better = [], METRIC, {}
    for checkpoint in run.checkpoints:
        saved = pytorch_beside(checkpoint.path, notes)
        with noted(checkpoint.path, notes):
            if saved is not None:
                monitor, lower = _metric(saved)
                lower_is_better[monitor] = lower
                checkpoint = _described(checkpoint, saved, monitor, has_updates)
        checkpoints.append(checkpoint)
    return replace(
        run,
        checkpoints=tuple(checkpoints),
        notes=tuple(notes),
        monitor=monitor,
        lower_is_better=lower_is_better,
    )


def _described(
    checkpoint: RunCheckpoint, saved: PytorchContents, metric: str, has_updates: bool
) -> RunCheckpoint:
    value = saved.number(saved.get("extra_state", "val_loss"))
    metrics = {} if value is None else {metric: value}
    step = checkpoint.step
    # Beside updates, an epoch has no step: the two kinds must not be mixed.
    if checkpoint.role != "checkpoint" or not has_updates:
        history = list(contents(saved.get("optimizer_history")).values())
        step = step or saved.decimal(
            "optimizer_history", str(len(history) - 1), "num_updates"
        )
    return replace(checkpoint, metrics=metrics, step=step)


def _metric(saved: PytorchContents) -> tuple[str, bool]:
    """Metric of the best checkpoint, and whether lower values are better."""
    for settings in (_setting(saved.get("cfg"), "checkpoint"), saved.get("args")):
        name = _setting(settings, "best_checkpoint_metric")
        if isinstance(name, str):
            return name, not _setting(settings, "maximize_best_checkpoint_metric")
    return METRIC, True


def _setting(settings: Any, name: str) -> Any:
    """Value in settings: a namespace, a dict, or a config of omegaconf."""
    values = contents(settings)
    value = contents(values.get("_content", values)).get(name)
    return contents(value).get("_val", value)
