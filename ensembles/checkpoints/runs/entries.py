"""Entries of a training folder: checkpoints, averages and unfinished files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories import distributed, rank_files
from ensembles.checkpoints.directories.modules import module_classes
from ensembles.checkpoints.directories.open import model_states
from ensembles.checkpoints.directories.unreadable import explain
from ensembles.checkpoints.directories.weight_files import (
    TRAINER,
    is_weight_file,
    main_weight_files,
)
from ensembles.checkpoints.formats.checkpoint import Checkpoint, FileSource
from ensembles.checkpoints.formats.detection import (
    detect,
    format_by_suffix,
    read,
    read_metadata,
)
from ensembles.checkpoints.formats.zip_files.reading import read_comment
from ensembles.checkpoints.formats.zip_files.records import LOCAL

PROVENANCE = "ensembles"  # key of the provenance in the metadata of an average
SHOWN = 8


def listed(names: Iterable[str]) -> str:
    """Join names for a message, at most eight.

    Parameters
    ----------
    names : iterable of str
        Names of checkpoints.

    Returns
    -------
    str
    """
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, by its name or the names of files in it.

    Parameters
    ----------
    path : Path
        File or directory. Files of optimizers and hidden files are not checkpoints; a
        directory with an index of missing shards is an unfinished one.

    Returns
    -------
    bool
    """
    if path.name.startswith(".") or TRAINER.fullmatch(path.name):
        return False
    if not path.is_dir():
        return is_weight_file(path.name)
    try:
        return is_sharded(path) or any(_main_files(path))
    except ValueError:
        return True


def is_sharded(path: Path) -> bool:
    """Whether a directory is one checkpoint, with parts of its tensors in its files.

    Parameters
    ----------
    path : Path
        Path of a directory.

    Returns
    -------
    bool
    """
    return (
        distributed.folder_in(path) is not None
        or rank_files.has_rank_files(path)
        or model_states(path) is not None
    )


def own_files(path: Path) -> set[str]:
    """Names of files and folders with the weights of a directory itself.

    Parameters
    ----------
    path : Path
        Path of a directory.

    Returns
    -------
    set of str
        Empty if the directory itself is not a checkpoint.
    """
    modules = {module for module in module_classes(path) if module}
    files = {file.name for file in _main_files(path) if file.parent == path}
    return files | {m for m in modules if main_weight_files(path / m)[0]}


def is_average(path: Path) -> bool:
    """Whether the metadata of a checkpoint contain the provenance of an average.

    Parameters
    ----------
    path : Path
        Path of a checkpoint.

    Returns
    -------
    bool
    """
    names = main_weight_files(path)[0] if path.is_dir() else [""]
    for name in names[:1]:
        recipe = read_metadata(path / name).get(PROVENANCE)
        return recipe is not None and not _is_conversion(recipe)
    return False


def unfinished_reason(path: Path) -> str | None:
    """Reason why a checkpoint cannot count: it is not completely written.

    Parameters
    ----------
    path : Path
        File or directory of the checkpoint. Formats with a directory at the end, or
        with sizes in their headers, show that a part is missing.

    Returns
    -------
    str or None
        Clause with "it" for the checkpoint; None if it appears to be complete.
    """
    if not path.exists():
        return "it is a link to a file that does not exist"
    try:
        files = list(_main_files(path)) if path.is_dir() else [path]
        if not files and not is_sharded(path):
            return f"it has no readable weights ({explain(path)})"
        reason = next(filter(None, map(_truncated, files)), None)
    except FileNotFoundError as error:  # a trainer removes old checkpoints
        return f"{error.filename} was removed"
    except ValueError as error:
        reason = str(error)
    if reason is not None:
        return f"it is not completely written ({reason})"
    is_other = path.is_file() and not is_weight_file(path.name) and not detect(path)
    return "its content is not that of a checkpoint" if is_other else None


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two files have the same tensors, by the checksums in the files.

    Parameters
    ----------
    first, second : Path
        Paths of checkpoints.

    Returns
    -------
    bool
        False if a checkpoint cannot be read, or is not a file with checksums, as
        ``torch.save`` writes it.
    """
    prints = []
    for path in (first, second):
        try:
            prints.append(_fingerprint(read(path)) if path.is_file() else None)
        except (OSError, ValueError):
            return False
    return prints[0] is not None and prints[0] == prints[1]


def _fingerprint(checkpoint: Checkpoint) -> list[Any] | None:
    """Names, dtypes, shapes and checksums; None without checksums."""
    tensors = [(n, str(t.dtype), t.shape) for n, t in checkpoint.layout.items()]
    checksums = [(record.size, record.crc) for record in checkpoint.records]
    return [*tensors, *checksums] if checksums else None


def _truncated(path: Path) -> str | None:
    """Reason why a file is not complete."""
    try:
        file = FileSource(path)
        if not file.size:
            return "it is empty"
        format_ = format_by_suffix(path.name)
        if file.size >= len(LOCAL) and file.read(0, len(LOCAL)) == LOCAL:
            read_comment(file)
        elif format_ is not None and not format_.takes_key:
            format_.read(path)
    except ValueError as error:
        return str(error) if "is not a complete" in str(error) else None
    return None


def _main_files(path: Path) -> Iterator[Path]:
    """Main weight files of a directory and its modules."""
    for module in module_classes(path):
        for name in main_weight_files(path / module)[0]:
            yield path / module / name


def _is_conversion(recipe: str) -> bool:
    """Whether a recipe is of a conversion, and not of an average's conversion."""
    try:
        content = json.loads(recipe)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("conversion", content) is None
