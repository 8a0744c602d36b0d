"""Steps of checkpoints from the numbers in their names, for any other trainer."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
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
EPOCH = "epoch"  # word of a number that counts epochs


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
        copy.
    """
    if not paths:
        return []
    full = [Path(os.path.abspath(path)) for path in paths]
    shared = os.path.commonpath([path.parent for path in full])
    checkpoints = [
        _describe(path, name.relative_to(shared).parts, own_files)
        for path, name in zip(paths, full, strict=True)
    ]
    steps = {_position(c) for c in checkpoints if not is_last(c.path.name)}
    return [
        replace(c, role="copy")
        if is_last(c.path.name) and c.role == "checkpoint" and _position(c) in steps
        else c
        for c in checkpoints
    ]


def _position(checkpoint: RunCheckpoint) -> tuple[str, Decimal | None, Decimal | None]:
    return checkpoint.kind, checkpoint.step, checkpoint.epoch


def _describe(path: Path, parts: Sequence[str], own_files: bool) -> RunCheckpoint:
    step = step_of(parts, bare=not own_files or path.is_dir())
    if step is None:
        return RunCheckpoint(path=path, role=_role(path.name))
    if step.kind == EPOCH:
        return RunCheckpoint(path=path, epoch=step.number, kind=EPOCH)
    return RunCheckpoint(path=path, step=step.number, kind=step.kind or NUMBER)


def _role(name: str) -> Role:
    """Role of a checkpoint without a step, from the words of its name."""
    if is_last(name):
        return "copy"
    for role, words in ROLES.items():
        if re.search(words, split_words(name)):
            return role
    return "other"
