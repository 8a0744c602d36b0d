"""A training run, as far as its folder describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

# What a file of a run is. Only "checkpoint" counts in selections by step or metric.
Role = Literal["checkpoint", "copy", "average", "unfinished", "other"]


@dataclass(frozen=True, kw_only=True)
class RunCheckpoint:
    """A checkpoint in the folder of a training run.

    Parameters
    ----------
    path : Path
        File or directory of the checkpoint.
    step : Decimal or None, default=None
        Number of optimizer steps at which it was saved; None if it is unknown.
    epoch : Decimal or None, default=None
        Number of epochs; None if it is unknown.
    tokens : Decimal or None, default=None
        Number of training tokens; None if it is unknown.
    metrics : mapping of str to float
        Metrics of the checkpoint by their names in the run.
    role : {"checkpoint", "copy", "average", "unfinished", "other"}
        Whether it is a checkpoint of its own, a copy of another one (such as
        ``last.ckpt``), an average of checkpoints, not completely written, or a
        checkpoint whose step is unknown.
    key : tuple of str, default=()
        Keys of the state dict that counts; empty finds it.
    """

    path: Path
    step: Decimal | None = None
    epoch: Decimal | None = None
    tokens: Decimal | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    role: Role = "checkpoint"
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """Checkpoints of a training run, in the order of training.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    layout : str
        Name of its layout in `LAYOUTS`.
    checkpoints : tuple of RunCheckpoint
        All checkpoints; those of role "checkpoint" in the order of training.
    notes : tuple of str, default=()
        Messages on what was left out or is contradictory, one sentence each.
    """

    folder: Path
    layout: str
    checkpoints: tuple[RunCheckpoint, ...]
    notes: tuple[str, ...] = ()
