"""Steps of checkpoints from the numbers in their names, for any other trainer."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from ensembles.checkpoints.runs.run import Role, RunCheckpoint
from ensembles.checkpoints.runs.step_names import (
    ROLES,
    is_last,
    split_words,
    step_of,
)

NUMBERS = "numbers"  # layout of a folder that no layout in `LAYOUTS` fits
NUMBER = "number"  # kind of a step without a word beside it
OTHER_COUNTERS = ("tokens", "epoch")  # kinds of numbers that do not count steps


def describe_by_numbers(
    paths: Sequence[Path], *, own_files: bool = False
) -> list[RunCheckpoint]:
    """Describe checkpoints by the numbers in their paths, below the common folder.

    Parameters
    ----------
    paths : sequence of Path
        Files or directories of checkpoints.
    own_files : bool, default=False
        Whether their folder is itself a checkpoint: then the number of a file counts
        only beside a word such as ``step``, because it may be that of a shard.

    Returns
    -------
    list of RunCheckpoint
        In the same order. A checkpoint named ``last`` with the step of another one is a
        copy. Steps that start again in each epoch are left out: the epoch is the order.
    """
    if not paths:
        return []
    full = [Path(os.path.abspath(path)) for path in paths]
    shared = os.path.commonpath([path.parent for path in full])
    checkpoints = [
        _describe(path, name.relative_to(shared).parts, own_files)
        for path, name in zip(paths, full, strict=True)
    ]
    if _restarts(checkpoints):
        checkpoints = [
            c if c.epoch is None else replace(c, step=None, kind="epoch")
            for c in checkpoints
        ]
    steps = {_position(c) for c in checkpoints if not is_last(c.path.name)}
    return [
        replace(c, role="copy")
        if is_last(c.path.name) and c.role == "checkpoint" and _position(c) in steps
        else c
        for c in checkpoints
    ]


def _position(checkpoint: RunCheckpoint) -> tuple[str, *tuple[Decimal | None, ...]]:
    return checkpoint.kind, checkpoint.step, checkpoint.epoch, checkpoint.tokens


def _describe(path: Path, parts: Sequence[str], own_files: bool) -> RunCheckpoint:
    step = step_of(parts, bare=not own_files or path.is_dir())
    if step is None:
        return RunCheckpoint(path=path, role=_role(path.name))
    return RunCheckpoint(
        path=path,
        step=None if step.kind in OTHER_COUNTERS else step.number,
        epoch=step.epoch,
        tokens=step.tokens,
        kind=step.kind or NUMBER,
    )


def _restarts(checkpoints: Sequence[RunCheckpoint]) -> bool:
    """Whether the steps are counted from the start of each epoch, not of the run."""
    positions = [
        (c.epoch, c.step)
        for c in checkpoints
        if c.epoch is not None and c.step is not None
    ]
    by_epoch = sorted(positions)
    return any(
        earlier[0] < later[0] and later[1] <= earlier[1]
        for earlier, later in pairwise(by_epoch)
    )


def _role(name: str) -> Role:
    """Role of a checkpoint without a step, from the words of its name."""
    if is_last(name):
        return "copy"
    for role, words in ROLES.items():
        if re.search(words, split_words(name)):
            return role
    return "other"
