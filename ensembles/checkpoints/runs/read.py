"""Read what the folder of a training run says about its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from ensembles.checkpoints.directories.unreadable import explain
from ensembles.checkpoints.runs.entries import (
    is_average,
    is_checkpoint,
    is_sharded,
    listed,
    own_files,
    same_tensors,
    unfinished_reason,
)
from ensembles.checkpoints.runs.layouts.builtin import LAYOUTS
from ensembles.checkpoints.runs.layouts.table import RunLayout
from ensembles.checkpoints.runs.metrics import metric_names
from ensembles.checkpoints.runs.numbers import NUMBERS, describe_by_numbers
from ensembles.checkpoints.runs.run import (
    Counter,
    Run,
    RunCheckpoint,
    common_counter,
)
from ensembles.checkpoints.runs.step_names import step_of


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
        If it is not a folder, or has no checkpoints that can be read.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no training run at {folder}")
    if not folder.is_dir():
        raise ValueError(f"a training run must be a folder, found the file {folder}")
    run = run_in(folder)
    if run is None:
        raise ValueError(
            f"{folder} must be the folder of a training run, but it is a checkpoint "
            "itself"
        )
    return run


def run_in(folder: Path) -> Run | None:
    """Run in a folder.

    Parameters
    ----------
    folder : Path
        Folder of a training run, or directory of a checkpoint.

    Returns
    -------
    Run or None
        None if the folder is a checkpoint itself, without checkpoints of a run in it.

    Raises
    ------
    ValueError
        If the folder has no checkpoints that can be read.
    """
    for layout in _layouts():
        inside, described = layout.find(folder)
        if described:
            paths = {path for c in described for path in (c.path, *c.path.parents)}
            others = [entry for entry in _entries(inside) if entry not in paths]
            run = _by_layout(layout, folder, described, others)
            if run is not None:
                return run
    # Folders of a diffusers pipeline are the components of one model.
    if (folder / "model_index.json").exists() or is_sharded(folder):
        return None
    return _by_numbers(folder)


def run_with(paths: Sequence[Path]) -> Run | None:
    """Run of a layout with some of the checkpoints in its folder.

    Parameters
    ----------
    paths : sequence of Path
        Checkpoints, at least one.

    Returns
    -------
    Run or None
        None if the checkpoints are in different folders, or the folder has no layout
        that describes one of them.
    """
    folder = paths[0].parent
    if any(path.parent != folder for path in paths) or not folder.is_dir():
        return None
    for layout in _layouts():
        _, described = layout.find(folder)
        chosen = [c for c in described if c.path in paths]
        others = set(paths) - {c.path for c in chosen}
        run = _by_layout(layout, folder, chosen, sorted(others)) if chosen else None
        if run is not None:
            return run
    return None


def _layouts() -> list[RunLayout]:
    """Run layouts; the ones with markers come first, because they are more specific."""
    return sorted(LAYOUTS.values(), key=lambda layout: not layout.markers)


def finished(
    checkpoints: Iterable[RunCheckpoint], notes: list[str]
) -> list[RunCheckpoint]:
    """Recognize unfinished checkpoints and averages.

    Parameters
    ----------
    checkpoints : iterable of RunCheckpoint
        Checkpoints as their names describe them.
    notes : list of str
        List that a note on each unfinished checkpoint is appended to.

    Returns
    -------
    list of RunCheckpoint
        The same with the role "unfinished" of checkpoints that are not completely
        written, "copy" of links to another checkpoint, and "average" of those whose
        metadata say so.
    """
    checked = []
    checkpoints = list(checkpoints)
    links = _links([c.path for c in checkpoints if c.role == "checkpoint"])
    for checkpoint in checkpoints:
        reason = unfinished_reason(checkpoint.path)
        if checkpoint.role == "unfinished":
            reason = reason or "it is not completely written (by its name)"
        if reason is not None:
            checkpoint = replace(checkpoint, role="unfinished")
            notes.append(f"skipped {checkpoint.path.name}: {reason}")
        elif checkpoint.path in links:
            checkpoint = replace(checkpoint, role="copy")
        elif checkpoint.role == "checkpoint" and is_average(checkpoint.path):
            checkpoint = replace(checkpoint, role="average")
        checked.append(checkpoint)
    return checked


def _links(paths: Sequence[Path]) -> set[Path]:
    """Paths that are links to another of the paths, or have the same target."""
    first: dict[str, Path] = {}
    for path in sorted(paths, key=Path.is_symlink):
        first.setdefault(os.path.realpath(path), path)
    return {p for p in paths if p.is_symlink() and first[os.path.realpath(p)] != p}


def in_order(checkpoints: Iterable[RunCheckpoint]) -> tuple[RunCheckpoint, ...]:
    """Sort checkpoints in the order of training.

    Parameters
    ----------
    checkpoints : iterable of RunCheckpoint
        Checkpoints of one run.

    Returns
    -------
    tuple of RunCheckpoint
        Those of role "checkpoint" come first, by the finest counter that all of them
        have.
    """
    checkpoints = list(checkpoints)
    common = common_counter(c for c in checkpoints if c.role == "checkpoint")
    return tuple(sorted(checkpoints, key=lambda c: _position(c, common)))


def _position(
    checkpoint: RunCheckpoint, common: Counter | None
) -> tuple[bool, bool, Decimal, str]:
    name = common or common_counter([checkpoint])
    number = None if name is None else checkpoint.counter(name)
    is_other = checkpoint.role != "checkpoint"
    return is_other, number is None, number or Decimal(0), checkpoint.path.name


def _by_layout(
    layout: RunLayout,
    folder: Path,
    described: list[RunCheckpoint],
    others: Iterable[Path],
) -> Run | None:
    """Run of a layout, with other checkpoints in the same folder."""
    notes: list[str] = []
    checked = finished(described, notes)
    complete = tuple(c for c in checked if c.role != "unfinished")
    if not any(c.role == "checkpoint" for c in complete):
        return None  # such as a folder step100 with other files
    run = layout(
        Run(
            folder=folder,
            layout=layout.name,
            checkpoints=complete,
            notes=tuple(notes),
        )
    )
    if run is None:
        return None
    notes = []
    checkpoints = [
        *_without_copies(in_order(run.checkpoints)),
        *(c for c in checked if c.role == "unfinished"),
        *map(_not_of_layout, finished(describe_by_numbers([*others]), notes)),
    ]
    return replace(
        run,
        checkpoints=in_order(checkpoints),
        notes=(*run.notes, *notes),
        monitor=run.monitor if run.monitor in metric_names(checkpoints) else None,
    )


def _without_copies(
    checkpoints: Iterable[RunCheckpoint],
) -> Iterator[RunCheckpoint]:
    """Mark copies of another checkpoint with the same step, whose metrics it gets."""
    kept: list[RunCheckpoint] = []
    for checkpoint in checkpoints:
        name = common_counter([checkpoint])
        before = kept[-1] if kept else checkpoint
        if (
            kept
            and checkpoint.role == "checkpoint"
            and name is not None
            and checkpoint.counter(name) == before.counter(name)
            and same_tensors(before.path, checkpoint.path)
        ):
            kept[-1] = replace(before, metrics={**checkpoint.metrics, **before.metrics})
            yield replace(checkpoint, role="copy")
        else:
            kept.append(checkpoint)
    yield from kept


def _not_of_layout(checkpoint: RunCheckpoint) -> RunCheckpoint:
    """Checkpoint whose name is not one of the layout, which does not count."""
    role = "other" if checkpoint.role == "checkpoint" else checkpoint.role
    return RunCheckpoint(path=checkpoint.path, role=role)


def _entries(folder: Path) -> list[Path]:
    """Checkpoints in a folder that are not parts of the folder as a checkpoint."""
    own = own_files(folder)
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.name not in own and is_checkpoint(entry)
    ]


def _by_numbers(folder: Path) -> Run | None:
    """Run in a folder that no layout fits."""
    own = bool(own_files(folder))
    entries = _entries(folder)
    described = describe_by_numbers(entries, own_files=own)
    if own and not any(c.role == "checkpoint" for c in described):
        return None
    if not entries:
        raise ValueError(_none_in(folder))
    notes: list[str] = []
    return Run(
        folder=folder,
        layout=NUMBERS,
        checkpoints=in_order(finished(described, notes)),
        notes=tuple(notes),
    )


def _none_in(path: Path) -> str:
    """Error message for a directory without readable checkpoints."""
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
    runs = [e for e in folders if any(map(is_checkpoint, e.iterdir()))]
    if runs:
        file = next(filter(is_checkpoint, sorted(runs[-1].iterdir())))
        pattern = f", or a pattern such as '{path}/*/{file.name}'"
        are_steps = file.is_file() and all(step_of((e.name,)) for e in runs)
        return (
            f"{path} contains no readable checkpoints, but its folders "
            f"{listed(e.name for e in runs)} do; pass one of them"
            f"{pattern if are_steps else ''}"
        )
    stepped = [entry for entry in folders if step_of((entry.name,))]
    if not stepped:
        return f"{path} contains no readable checkpoints: {explain(path)}"
    return (
        f"{path} contains {len(stepped)} folders of checkpoints, and none is readable; "
        f"in {stepped[-1].name}: {explain(stepped[-1])}"
    )
