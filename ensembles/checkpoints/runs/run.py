"""A training run, as far as its folder describes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

# Role of a file in a run. Only "checkpoint" counts in selections by step or metric.
Role = Literal["checkpoint", "copy", "best", "average", "unfinished", "other"]
Counter = Literal["step", "epoch", "tokens"]
# Counters of training, from the finest to the coarsest.
COUNTERS: tuple[Counter, ...] = ("step", "epoch", "tokens")


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
        Number of epochs as the trainer counts them; None if it is unknown.
    tokens : Decimal or None, default=None
        Number of training tokens; None if it is unknown.
    metrics : mapping of str to float
        Metrics of the checkpoint by their names in the run.
    role : {"checkpoint", "copy", "best", "average", "unfinished", "other"}
        "checkpoint" for a checkpoint of its own, "copy" for a copy of another one
        (such as ``last.ckpt``), "best" for a copy of the best one, "average" for an
        average of checkpoints, "unfinished" if it is not completely written, "other"
        for a checkpoint without a step.
    key : tuple of str, default=()
        Keys of the state dict to average; empty finds it.
    kind : str, default=""
        Word beside the number in the name, such as "epoch", if the name alone
        describes the checkpoint; checkpoints of different kinds are not compared.
    """

    path: Path
    step: Decimal | None = None
    epoch: Decimal | None = None
    tokens: Decimal | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    role: Role = "checkpoint"
    key: tuple[str, ...] = ()
    kind: str = ""

    def counter(self, name: Counter) -> Decimal | None:
        """Step, epoch or tokens.

        Parameters
        ----------
        name : {"step", "epoch", "tokens"}
            Name of the counter.

        Returns
        -------
        Decimal or None
            None if it is unknown.
        """
        counters = {"step": self.step, "epoch": self.epoch, "tokens": self.tokens}
        return counters[name]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Checkpoints of a training run, in the order of training.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    layout : str
        Name of its layout in ``LAYOUTS``, or "numbers".
    checkpoints : tuple of RunCheckpoint
        All checkpoints; those of role "checkpoint" come first, in the order of
        training.
    notes : tuple of str, default=()
        Messages on checkpoints that were left out and on contradictory or damaged
        files, one sentence each.
    monitor : str or None, default=None
        Metric by which the trainer chooses its best checkpoint; None if it is unknown.
    lower_is_better : mapping of str to bool
        Whether lower values of a metric are better, for each metric whose direction is
        in the files of the run.
    """

    folder: Path
    layout: str
    checkpoints: tuple[RunCheckpoint, ...]
    notes: tuple[str, ...] = ()
    monitor: str | None = None
    lower_is_better: Mapping[str, bool] = field(default_factory=dict)

    def name_of(self, checkpoint: RunCheckpoint) -> str:
        """Path of a checkpoint relative to the folder, for messages.

        Parameters
        ----------
        checkpoint : RunCheckpoint
            Checkpoint of the run.

        Returns
        -------
        str
            The whole path if it is not in the folder.
        """
        if checkpoint.path.is_relative_to(self.folder):
            return checkpoint.path.relative_to(self.folder).as_posix()
        return str(checkpoint.path)


def common_counter(checkpoints: Iterable[RunCheckpoint]) -> Counter | None:
    """Finest counter that all checkpoints have.

    Parameters
    ----------
    checkpoints : iterable of RunCheckpoint
        Checkpoints of one run.

    Returns
    -------
    {"step", "epoch", "tokens"} or None
        None if they have no counter in common.
    """
    checkpoints = list(checkpoints)
    for name in COUNTERS:
        if checkpoints and all(c.counter(name) is not None for c in checkpoints):
            return name
    return None
