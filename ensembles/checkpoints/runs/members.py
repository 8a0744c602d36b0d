"""Members that paths, glob patterns and folders of training runs name."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from ensembles.checkpoints.runs.entries import is_checkpoint
from ensembles.checkpoints.runs.numbers import NUMBERS, describe_by_numbers
from ensembles.checkpoints.runs.read import finished, in_order, run_in, run_with
from ensembles.checkpoints.runs.run import Run, RunCheckpoint, common_counter


def expand(members: Sequence[str]) -> list[str]:
    """Expand glob patterns to their matches, sorted by step.

    Parameters
    ----------
    members : sequence of str
        Paths and patterns; paths are returned as they are.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing.
    """
    return [path for member in members for path in _matches(member)]


def run_of(members: Sequence[str]) -> Run:
    """Run with the checkpoints that members name.

    Parameters
    ----------
    members : sequence of str
        Folders of runs, patterns, and paths of checkpoints.

    Returns
    -------
    Run
        With the layout of the folder if it describes all members, else "numbers".

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing, or a path does not exist.
    ValueError
        If a folder has no readable checkpoints.
    """
    if all(_is_one(member) for member in members):
        return _run_of_paths([Path(member) for member in members])
    runs = [_run_of_member(member) for member in members]
    return runs[0] if len(runs) == 1 else _joined(runs)


def _is_one(member: str) -> bool:
    """Whether a member is the path of a file, and neither a folder nor a pattern."""
    path = Path(member)
    return not path.is_dir() and (path.exists() or not glob.has_magic(member))


def _matches(member: str) -> list[str]:
    if os.path.exists(member) or not glob.has_magic(member):
        return [member]
    matched = glob.glob(member)
    if not matched:
        raise FileNotFoundError(f"no checkpoint matches {member!r}")
    described = zip(
        describe_by_numbers([Path(m) for m in matched]), matched, strict=True
    )
    return [name for _, name in sorted(described, key=_by_number)]


def _by_number(pair: tuple[RunCheckpoint, str]) -> tuple[Decimal, str]:
    checkpoint, name = pair
    counter = common_counter([checkpoint])
    number = None if counter is None else checkpoint.counter(counter)
    return Decimal(-1) if number is None else number, name


def _run_of_member(member: str) -> Run:
    """Run in a folder, or with the checkpoints of a pattern or one path."""
    path = Path(member)
    run = run_in(path) if path.is_dir() else None
    if run is not None:
        return run
    if path.exists() or not glob.has_magic(member):
        return _run_of_paths([path])
    paths = [Path(name) for name in sorted(glob.glob(member))]
    paths = [path for path in paths if is_checkpoint(path)]
    if not paths:
        raise FileNotFoundError(f"no checkpoint matches {member!r}")
    run = run_with(paths)
    if run is not None:
        return run
    notes: list[str] = []
    return Run(
        folder=_common_folder(paths),
        layout=NUMBERS,
        checkpoints=in_order(finished(describe_by_numbers(paths), notes)),
        notes=tuple(notes),
    )


def _run_of_paths(paths: Sequence[Path]) -> Run:
    """Run with these checkpoints; each one counts, with or without a step."""
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        raise FileNotFoundError(f"no checkpoint at {missing[0]}")
    run = run_with(paths)
    if run is not None and all(c.role == "checkpoint" for c in run.checkpoints):
        return run
    checkpoints = [
        replace(c, role="checkpoint") if c.role != "copy" or c.step is None else c
        for c in describe_by_numbers(paths)
    ]
    return Run(
        folder=_common_folder(paths), layout=NUMBERS, checkpoints=tuple(checkpoints)
    )


def _joined(runs: Sequence[Run]) -> Run:
    """Run with the checkpoints of several, by numbers unless they have one layout."""
    checkpoints = [c for run in runs for c in run.checkpoints]
    layouts = {run.layout for run in runs}
    layout = layouts.pop() if len(layouts) == 1 else NUMBERS
    if layout == NUMBERS:
        counted = [c.path for c in checkpoints if c.role == "checkpoint"]
        others = [c for c in checkpoints if c.role != "checkpoint"]
        checkpoints = [*_run_of_paths(counted).checkpoints, *others]
    return Run(
        folder=_common_folder([run.folder / "_" for run in runs]),
        layout=layout,
        checkpoints=in_order(checkpoints),
        notes=tuple(note for run in runs for note in run.notes),
        monitor=runs[0].monitor,
        lower_is_better={k: v for run in runs for k, v in run.lower_is_better.items()},
    )


def _common_folder(paths: Sequence[Path]) -> Path:
    if len({path.parent for path in paths}) == 1:
        return paths[0].parent
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
