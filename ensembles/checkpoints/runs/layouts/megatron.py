"""Runs of Megatron-LM and Megatron-Bridge: ``iter_0001000/``, distributed checkpoints.

Sources: megatron/training/checkpointing.py, ``save`` in
megatron/core/dist_checkpointing/serialization.py, tools/checkpoint/weighted_merge.py;
src/megatron/bridge/training/state.py and utils/checkpoint_utils.py of Megatron-Bridge.
"""

from __future__ import annotations

import re
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
# Files of Megatron-Bridge.
STATE = "train_state.pt"
CONFIG = "run_config.yaml"
LENGTH = re.compile(r"^ +seq(?:uence)?_length: (\d+)$", re.MULTILINE)


@register(
    LAYOUTS,
    trainer="Megatron-LM",
    names=[r"iter_(?P<step>\d+)"],
    roles={"other": r"release"},
    markers=[TRACKER, f"iter_*/{COMMON}"],
)
def megatron(run: Run) -> Run:
    """Samples and the length of a sequence are in the saved arguments."""
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
    return replace(checkpoint, tokens=_tokens(path, notes))


def _tokens(path: Path, notes: list[str]) -> Decimal | None:
    """Samples times the length of a sequence; None if one of them is unknown."""
    common = pytorch_beside(path / COMMON, notes)
    state = pytorch_beside(path / STATE, notes)
    if state is not None:
        samples = state.decimal("consumed_train_samples")
        length = _sequence_length(path / CONFIG, notes)
    elif common is not None:
        samples = common.decimal("args", "consumed_train_samples")
        length = common.decimal("args", "seq_length")
    else:
        return None
    return None if samples is None or length is None else samples * length


def _sequence_length(path: Path, notes: list[str]) -> Decimal | None:
    """Length in the configuration of Megatron-Bridge; None if there are several."""
    with noted(path, notes):
        lengths = set(LENGTH.findall(read_regular(path).decode()))
        return Decimal(lengths.pop()) if len(lengths) == 1 else None
    return None


def _latest(path: Path, notes: list[str]) -> Decimal | None:
    """Last completed iteration; None if it is unknown, as for a release."""
    with noted(path, notes):
        text = read_regular(path).decode().strip()
        return None if text == "release" else Decimal(int(text))
    return None
