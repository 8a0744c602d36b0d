"""Runs of NeMo: ``NAME--METRIC=0.12-step=100.ckpt``, or directories of such names.

Sources: nemo/utils/callbacks/nemo_model_checkpoint.py,
nemo/lightning/pytorch/callbacks/model_checkpoint.py, and scripts/checkpoint_averaging.
"""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from ensembles.checkpoints.runs.beside import pytorch_beside
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.registry import register

VALUE = re.compile(r"([A-Za-z]\w*)=(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|-?inf|nan)")
# A run without a monitored metric has names such as NAME--None=0.0000-epoch=0.
NO_METRICS = {"None", "step", "epoch", "consumed_samples"}
LAST = re.compile(r"-last(-v\d+)?(\.ckpt)?$")


@register(
    LAYOUTS,
    trainer="NeMo",
    names=[r".*--\w+=[^/]+(?<!-unfinished)"],
    roles={
        "average": r"average-.*\.nemo|.*-averaged(\.nemo|\.ckpt)?|.*-EMA(-v\d+)?\.ckpt",
        "copy": r".*\.nemo|((?!--).)*-last\.ckpt",
    },
    markers=["*--*=*"],
    subfolders=["checkpoints"],
)
def nemo(run: Run) -> Run:
    """Counters and metrics are in the names, a step often in the checkpoint alone.

    A name with ``-last`` is a copy if another checkpoint has the same step.
    """
    notes: list[str] = []
    described = [
        _described(c, notes) if c.role == "checkpoint" else c for c in run.checkpoints
    ]
    saved = {
        (c.step, c.epoch)
        for c in described
        if c.role == "checkpoint" and not LAST.search(c.path.name)
    }
    checkpoints = tuple(
        replace(c, role="copy")
        if c.role == "checkpoint"
        and LAST.search(c.path.name)
        and (c.step, c.epoch) in saved
        else c
        for c in described
    )
    names = {name for checkpoint in checkpoints for name in checkpoint.metrics}
    return replace(
        run,
        checkpoints=checkpoints,
        notes=(*run.notes, *notes),
        monitor=names.pop() if len(names) == 1 else None,
    )


def _described(checkpoint: RunCheckpoint, notes: list[str]) -> RunCheckpoint:
    """Checkpoint with its counters and metrics, and whether it is complete."""
    path = checkpoint.path
    name = path.name.removesuffix(".ckpt")
    values = dict(VALUE.findall(name.partition("--")[2]))
    marker = path.with_name(f"{name}-unfinished")
    if marker.exists():
        notes.append(
            f"skipped {path.name}: it is not completely written ({marker.name} exists)"
        )
        return replace(checkpoint, role="unfinished")
    step = Decimal(values["step"]) if "step" in values else _step(path, notes)
    return replace(
        checkpoint,
        step=step,
        epoch=Decimal(values["epoch"]) if "epoch" in values else None,
        metrics={n: float(v) for n, v in values.items() if n not in NO_METRICS},
    )


def _step(path: Path, notes: list[str]) -> Decimal | None:
    """Step in a Lightning file, or in the common part of a distributed checkpoint."""
    files = [path / "weights" / "common.pt", path / "common.pt", path]
    file = next(file for file in files if file.is_file() or file == path)
    content = None if file.is_dir() else pytorch_beside(file, notes)
    return None if content is None else content.decimal("global_step")
