"""Steps of checkpoints from the numbers in their names, for any other trainer."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from ensembles.checkpoints.runs.run import Counter, Role, RunCheckpoint
from ensembles.checkpoints.runs.step_names import (
    ROLES,
    is_last,
    split_words,
    step_of,
)

NUMBERS = "numbers"  # layout of a folder that no layout in `LAYOUTS` fits
NUMBER = "number"  # kind of a step without a word beside it
# Kinds of numbers that do not count steps.
OTHER_COUNTERS: tuple[Counter, ...] = ("tokens", "epoch")


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
        copy. Steps that start again are left out: tokens or epochs are the order.
    """
    if not paths:
        return []
    full = [Path(os.path.abspath(path)) for path in paths]
    shared = os.path.commonpath([path.parent for path in full])
    checkpoints = [
        _describe(path, name.relative_to(shared).parts, own_files)
        for path, name in zip(paths, full, strict=True)
    ]
    for counter in OTHER_COUNTERS:
        if _restarts(checkpoints, counter):
            checkpoints = [
                c if c.counter(counter) is None else replace(c, step=None, kind=counter)
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


def _restarts(checkpoints: Sequence[RunCheckpoint], name: Counter) -> bool:
    """Whether steps start again within the run, as in each epoch or each stage."""
    counters = [(c.counter(name), c.step) for c in checkpoints]
    positions = sorted(
        (number, step)
        for number, step in counters
        if number is not None and step is not None
    )
    return any(
        earlier[0] < later[0] and later[1] <= earlier[1]
        for earlier, later in pairwise(positions)
    )


def _role(name: str) -> Role:
    """Role of a checkpoint without a step, from the words of its name."""
    if is_last(name):
        return "copy"
    for role, words in ROLES.items():
        if re.search(words, split_words(name)):
            return role
    return "other"
