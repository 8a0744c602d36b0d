"""Find the checkpoints that paths, glob patterns and training directories name."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from ensembles.checkpoints.directories import directory, distributed, rank_files
from ensembles.checkpoints.directories.step_names import Step, is_last, step_of
from ensembles.checkpoints.directories.unreadable import explain
from ensembles.checkpoints.directories.weight_files import (
    TRAINER,
    is_weight_file,
    main_weight_files,
)
from ensembles.checkpoints.formats.detection import read_metadata

PROVENANCE = "ensembles"  # key of the provenance in the metadata of an average
SHOWN = 8


class DiscoveredCheckpoints(NamedTuple):
    """Paths of members, with their training steps.

    Parameters
    ----------
    paths : list of str
        Path of each member.
    steps : list of Decimal or None
        Training step of each path; None if members were not sorted by step.
    notes : list of str
        Messages about skipped or mixed checkpoints, one sentence each.
    """

    paths: list[str]
    steps: list[Decimal | None]
    notes: list[str]


def discover_checkpoints(
    members: Sequence[str], *, last: int | None = None, by_step: bool = False
) -> DiscoveredCheckpoints:
    """Expand paths, glob patterns and training directories to paths of members.

    Parameters
    ----------
    members : sequence of str
        Paths and glob patterns. A pattern expands to its matches, sorted by step. With
        ``last`` or ``by_step``, only checkpoints among the matches count, and a
        directory expands to the checkpoints in it, if it has any; averages and
        checkpoints without a step, such as ``best.pt``, are skipped unless no
        checkpoint has a step.
    last : int or None, default=None
        Number of checkpoints to keep, those with the highest steps; None keeps all. A
        step is the number beside ``step``, ``checkpoint`` or ``epoch`` in the path, or
        else the last integer in it.
    by_step : bool, default=False
        Whether all checkpoints are sorted by step, as with ``last``.

    Returns
    -------
    DiscoveredCheckpoints

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing, or a path does not exist.
    ValueError
        If a directory has no readable checkpoints, there are fewer checkpoints than
        ``last``, or steps are missing, not distinct, or of different kinds (such as
        epochs and updates).
    """
    if last is None and not by_step:
        paths = [path for member in members for path in _matches(member)]
        return DiscoveredCheckpoints(paths, [None] * len(paths), [])
    notes: list[str] = []
    paths = [path for member in members for path in _checkpoints(member, notes)]
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing and (last is None or last > len(paths)):
        raise FileNotFoundError(f"no checkpoint at {missing[0]}")
    if last is not None and not 1 <= last <= len(paths):
        raise ValueError(
            "last=N (--last N) must be from 1 to the number of checkpoints, "
            f"{len(paths)} in {' '.join(members)}: found {last}"
        )
    option = "a schedule (--schedule)" if last is None else "last=N (--last N)"
    last_paths = _by_step(paths, notes, option)[-(last or 0) :]
    if last is not None and len(last_paths) < last:
        raise ValueError(
            "last=N (--last N) must be from 1 to the number of steps, "
            f"{len(last_paths)} in {' '.join(members)}: found {last}"
        )
    steps = _steps(paths)
    notes.extend(_unlike(last_paths))
    return DiscoveredCheckpoints(
        last_paths, [_number(steps[path]) for path in last_paths], notes
    )


def _unlike(paths: Sequence[str]) -> Iterator[str]:
    """Note on different name prefixes, as with two models in one folder."""
    first: dict[str, str] = {}
    for name in (Path(path).name for path in paths):
        first.setdefault(re.split(r"\d", name, maxsplit=1)[0], name)
    if len(first) > 1:
        yield (
            f"{', '.join(list(first.values())[:SHOWN])} were chosen, and their names "
            "begin differently; if they are different models, pass a pattern that "
            "matches only one of them"
        )


def _matches(member: str) -> list[str]:
    if os.path.exists(member) or not glob.has_magic(member):
        return [member]
    matched = glob.glob(member)
    if not matched:
        raise FileNotFoundError(f"no checkpoint matches {member!r}")
    steps = _steps(matched)
    return sorted(matched, key=lambda name: (_or_before(steps[name]), name))


def _checkpoints(member: str, notes: list[str]) -> list[str]:
    """Checkpoints that a path or pattern expands to, those with a step if any."""
    path = Path(member)
    if path.is_dir():
        return _inside(path, notes) or [member]
    if path.exists() or not glob.has_magic(member):
        return [member]
    matched = [path for path in sorted(glob.glob(member)) if _is_checkpoint(Path(path))]
    if not matched:
        raise FileNotFoundError(f"no checkpoint matches {member!r}")
    steps = _steps(matched)
    chosen = [path for path in matched if steps[path] and not _is_result(Path(path))]
    if chosen:
        _note(member, [Path(p) for p in matched if p not in chosen], notes)
    return chosen or matched


def _inside(path: Path, notes: list[str]) -> list[str]:
    """Checkpoints in a training directory, those with a step if any."""
    if (path / "model_index.json").exists():  # components of one diffusers pipeline
        return []
    if _is_sharded(path):
        return []
    main = {name for m in directory.modules(path) for name in _main_files(path, m)}
    entries = [e for e in sorted(path.iterdir()) if e.name not in main]
    checkpoints = [entry for entry in entries if _is_checkpoint(entry)]
    # If the directory is a checkpoint itself, a number may be that of a shard, as in
    # model-00001-of-00002.
    stepped = [
        entry
        for entry in checkpoints
        if step_of((entry.name,), bare=not main or entry.is_dir())
        and not _is_result(entry)
    ]
    if stepped:
        _note(str(path), [e for e in checkpoints if e not in stepped], notes)
    elif not main and not checkpoints:
        raise ValueError(_none_in(path))
    return [str(entry) for entry in stepped or ([] if main else checkpoints)]


def checkpoints_in(folder: Path) -> list[Path]:
    """Readable checkpoints in a folder, in the order of their names.

    Parameters
    ----------
    folder : Path
        Folder of a training run.

    Returns
    -------
    list of Path
    """
    return [entry for entry in sorted(folder.iterdir()) if _is_checkpoint(entry)]


def _none_in(path: Path) -> str:
    """Error message for a directory without readable checkpoints."""
    folders = [e for e in sorted(path.iterdir()) if e.is_dir() and step_of((e.name,))]
    if not folders:
        return f"{path} contains no readable checkpoints: {explain(path)}"
    return (
        f"{path} contains {len(folders)} folders of checkpoints, and none is readable; "
        f"in {folders[-1].name}: {explain(folders[-1])}"
    )


def _note(member: str, passed: Sequence[Path], notes: list[str]) -> None:
    """Add notes about skipped checkpoints, with the reason."""
    results = [path.name for path in passed if _is_result(path)]
    others = [path.name for path in passed if path.name not in results]
    for names, why in (
        (others, "their names have no training step"),
        (results, "their metadata say that they are averages"),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            notes.append(f"{member}: skipped {', '.join(names[:SHOWN])}{more}: {why}")


def _is_result(path: Path) -> bool:
    """Whether the metadata of a checkpoint contain the provenance of an average."""
    names = main_weight_files(path)[0] if path.is_dir() else [""]
    for name in names[:1]:
        recipe = read_metadata(path / name).get(PROVENANCE)
        return recipe is not None and not _is_conversion(recipe)
    return False


def _is_conversion(recipe: str) -> bool:
    """Whether a recipe is of a conversion, and not of an average's conversion."""
    try:
        found = json.loads(recipe)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("conversion", found) is None


def _main_files(path: Path, module: str) -> list[str]:
    names = main_weight_files(path / module)[0]
    return [module, *names] if module and names else names


def _is_checkpoint(path: Path) -> bool:
    if path.name.startswith(".") or TRAINER.fullmatch(path.name):
        return False
    if path.is_dir():
        return _is_sharded(path) or any(
            main_weight_files(path / m)[0] for m in directory.modules(path)
        )
    return is_weight_file(path.name)


def _is_sharded(path: Path) -> bool:
    """Whether a directory is one checkpoint, with parts of its tensors in its files."""
    return distributed.folder_in(path) is not None or rank_files.has_rank_files(path)


def _by_step(paths: list[str], notes: list[str], option: str) -> list[str]:
    """Sort paths by step; the steps must be distinct and of one kind."""
    steps = _steps(paths)
    if len(paths) > 1:
        paths = _without_copies(paths, steps, notes)
        numbers = {step.number for path in paths if (step := steps[path])}
        if len(numbers) < len(paths):
            pairs = ", ".join(f"{path} -> {_number(steps[path])}" for path in paths)
            raise ValueError(
                f"{option} needs a different step in each name, found {pairs}; name "
                f"the checkpoints to average, without {option.partition(' (')[0]}, or "
                "pass a pattern that matches only one model, such as 'run/model_*'"
            )
        kinds = {step.kind: path for path in paths if (step := steps[path])}
        if len(kinds) > 1:
            shown = ", ".join(f"{kind or 'number'} ({p})" for kind, p in kinds.items())
            raise ValueError(
                f"{option} needs steps of one kind, found {shown}; pass a pattern "
                "that matches only one kind, such as 'run/epoch*'"
            )
    return sorted(paths, key=lambda path: _or_before(steps[path]))


def _without_copies(
    paths: list[str], steps: Mapping[str, Step | None], notes: list[str]
) -> list[str]:
    """Remove checkpoints named ``last`` with the step of another checkpoint."""
    others = {steps[path] for path in paths if not is_last(Path(path).name)}
    copies = [p for p in paths if is_last(Path(p).name) and steps[p] in others - {None}]
    if copies:
        names = ", ".join(Path(path).name for path in copies)
        notes.append(f"skipped {names}: another checkpoint has the same step")
    return [path for path in paths if path not in copies]


def _steps(paths: list[str]) -> dict[str, Step | None]:
    """Step of each path, from the part below the common folder."""
    full = {path: os.path.abspath(path) for path in paths}
    shared = os.path.commonpath([os.path.dirname(name) for name in full.values()])
    return {
        path: step_of(Path(os.path.relpath(name, shared)).parts)
        for path, name in full.items()
    }


def _number(step: Step | None) -> Decimal | None:
    return None if step is None else step.number


def _or_before(step: Step | None) -> Decimal:
    return Decimal(-1) if step is None else step.number
