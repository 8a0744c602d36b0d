"""Read what the folder of a training run says about its checkpoints."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

from ensembles.checkpoints.directories.discovery import checkpoints_in
from ensembles.checkpoints.runs.builtin import LAYOUTS
from ensembles.checkpoints.runs.numbers import from_numbers
from ensembles.checkpoints.runs.run import Run, RunCheckpoint

NUMBERS = "numbers"  # layout of a folder that no other layout fits


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read steps, epochs, tokens and metrics of the checkpoints of a training run.

    Parameters
    ----------
    folder : path
        Folder of the run.

    Returns
    -------
    Run

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If it has no readable checkpoints.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no training run at {folder}")
    paths = checkpoints_in(folder)
    if not paths:
        raise ValueError(f"{folder} contains no readable checkpoints")
    for name, layout in LAYOUTS.items():
        if layout.fits(folder, paths):
            described = [c for path in paths if (c := layout.describe(path))]
            checkpoints = layout(folder, described)
            return Run(folder=folder, layout=name, checkpoints=_in_order(checkpoints))
    return Run(
        folder=folder,
        layout=NUMBERS,
        checkpoints=_in_order(list(from_numbers(paths))),
    )


def _in_order(checkpoints: list[RunCheckpoint]) -> tuple[RunCheckpoint, ...]:
    """Checkpoints in the order of training; those without a counter come last."""
    return tuple(sorted(checkpoints, key=_position))


def _position(checkpoint: RunCheckpoint) -> tuple[bool, Decimal, str]:
    counters = (checkpoint.step, checkpoint.epoch, checkpoint.tokens)
    first = next((number for number in counters if number is not None), None)
    return first is None, first or Decimal(0), checkpoint.path.name
