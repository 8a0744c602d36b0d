"""Runs of Megatron-LM: ``iter_0001000/``, distributed checkpoints.

Sources: megatron/training/checkpointing.py, ``save`` in
megatron/core/dist_checkpointing/serialization.py, tools/checkpoint/weighted_merge.py.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from ensembles.checkpoints.runs.beside import noted, pytorch_beside
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.registry import register
from ensembles.regular_files import read_regular

TRACKER = "latest_checkpointed_iteration.txt"
COMMON = "common.pt"  # written first
COMPLETE = "metadata.json"  # written at the end, if there is a common.pt


@register(
    LAYOUTS,
    trainer="Megatron-LM",
    names=[r"iter_(?P<step>\d+)"],
    roles={"other": r"release"},
    markers=[TRACKER, f"iter_*/{COMMON}"],
)
def megatron(run: Run) -> Run:
    """Tokens are the samples times the sequence length, of the saved arguments."""
    notes: list[str] = []
    latest = _latest(run.folder / TRACKER, notes)
    checkpoints = tuple(
        _described(c, latest, notes) if c.role == "checkpoint" else c
        for c in run.checkpoints
    )
    return replace(run, checkpoints=checkpoints, notes=(*run.notes, *notes))


def _described(
    checkpoint: RunCheckpoint, latest: Decimal | None, notes: list[str]
) -> RunCheckpoint:
    """Checkpoint with its tokens, and whether it is complete."""
    path, step = checkpoint.path, checkpoint.step
    reason = None
    if (path / COMMON).exists() and not (path / COMPLETE).exists():
        reason = f"it has no {COMPLETE}"
    elif latest is not None and step is not None and step > latest:
        reason = f"{TRACKER} has {latest}"
    if reason is not None:
        notes.append(f"skipped {path.name}: it is not completely written ({reason})")
        return replace(checkpoint, role="unfinished")
    content = pytorch_beside(path / COMMON, notes)
    if content is None:
        return checkpoint
    samples = content.decimal("args", "consumed_train_samples")
    length = content.decimal("args", "seq_length")
    if samples is None or length is None:
        return checkpoint
    return replace(checkpoint, tokens=samples * length)


def _latest(path: Path, notes: list[str]) -> Decimal | None:
    """Last completed iteration; None if it is unknown, as for a release."""
    with noted(path, notes):
        text = read_regular(path).decode().strip()
        return None if text == "release" else Decimal(int(text))
    return None
