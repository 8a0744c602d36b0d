"""Runs of any other trainer, by the numbers in the names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ensembles.checkpoints.directories.step_names import is_last, step_of
from ensembles.checkpoints.runs.run import RunCheckpoint

EPOCHS = ("epoch",)


def from_number(path: Path) -> RunCheckpoint:
    """Describe a checkpoint by the number in its name.

    Parameters
    ----------
    path : Path
        File or directory of the checkpoint.

    Returns
    -------
    RunCheckpoint
    """
    step = step_of((path.name,))
    if step is None:
        return RunCheckpoint(path=path, role="copy" if is_last(path.name) else "other")
    if step.kind in EPOCHS:
        return RunCheckpoint(path=path, epoch=step.number)
    return RunCheckpoint(path=path, step=step.number)


def from_numbers(paths: list[Path]) -> Iterator[RunCheckpoint]:
    """Describe each checkpoint by the number in its name.

    Parameters
    ----------
    paths : list of Path
        Files or directories of checkpoints.

    Yields
    ------
    RunCheckpoint
    """
    return map(from_number, paths)
