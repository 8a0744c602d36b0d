"""Find the small files beside the weight files, which an average copies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ensembles.checkpoints.directories.weight_files import (
    COPIES,
    FOREIGN,
    READABLE,
    TRAINER,
)
from ensembles.regular_files import read_regular

LARGEST = 64 << 20  # bytes of one file, and of all files in one subfolder
# Files about one member only: scores, logs, training progress.
STALE = re.compile(
    r"\..*|.*\.index\.json|trainer_state.*|trainer_log.*|events\.out\.tfevents.*"
    r"|latest(_checkpointed_iteration\.txt)?|zero_to_fp32\.py|.*\.log|nohup\.out"
    r"|(all|train|eval|test|predict|validation)_results\.(json|txt|csv)"
    r"|.*_evaluation_.*results\.csv|global_step.*|(training|train|eval)_loss\.png"
)
# Folders of a training run: logs, checkpoints of other steps.
FOLDERS = re.compile(
    r"[._].*|runs|logs?|wandb|mlruns|tensorboard|lightning_logs|eval|events.*"
    r"|(tmp|checkpoint|global_step|epoch|iter|version)[-_]?.*|step[-_]?\d.*"
    r"|__pycache__",
    re.IGNORECASE,
)
# Folders of other steps if they contain weight files.
NUMBERED = re.compile(r"(.*[-_])?\d+")
# Code and settings are copied even if they are named like training state.
TEXTS = (".py", ".json", ".yaml", ".yml")
POINTER = b"version https://git-lfs"
SMALLEST = 1024  # bytes; a git-LFS pointer is not larger
MOST = 1000  # files examined in one subfolder


def carried(path: Path, modules: list[str]) -> tuple[list[str], list[str]]:
    """Auxiliary files of a checkpoint directory, to copy into its average.

    Parameters
    ----------
    path : Path
        Path of the checkpoint directory.
    modules : list of str
        Folders of its modules, relative to ``path``; the directory itself is ``""``.

    Returns
    -------
    files : list of str
        Files to copy, relative to ``path``.
    left : list of str
        Files and folders that may be needed but are not copied, with the reason.
    """
    files: list[str] = []
    left: list[str] = []
    root = repository(path)
    for module in modules:
        folder = path / module
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            name = str(entry.relative_to(path))
            if entry.is_dir():
                if name not in modules and not _is_known(entry.name):
                    _add_folder(entry, path, root, files, left)
            elif _is_carried(entry):
                reason = obstacle(entry, root)
                if reason is None:
                    files.append(name)
                else:
                    left.append(f"{name} ({reason})")
    return files, left


def _is_known(folder: str) -> bool:
    return bool(FOLDERS.fullmatch(folder)) or folder in COPIES


def _add_folder(
    folder: Path, path: Path, root: Path, files: list[str], left: list[str]
) -> None:
    name = f"{folder.relative_to(path)}/"
    if not _is_inside(folder, root):
        left.append(f"{name} (a link that leaves the directory)")
        return
    inside = list(islice(_walk(folder), MOST + 1))
    if any(file.name.endswith((*READABLE, *FOREIGN)) for file in inside):
        if not NUMBERED.fullmatch(folder.name):
            left.append(f"{name} (weights of its own)")
        return
    wanted = [file for file in inside if _is_carried(file)]
    kept = [file for file in wanted if obstacle(file, root) is None]
    left.extend(
        f"{file.relative_to(path)} ({obstacle(file, root)})"
        for file in wanted
        if file not in kept
    )
    if len(inside) > MOST or sum(file.stat().st_size for file in kept) > LARGEST:
        left.append(f"{name} (more than {LARGEST >> 20} MiB or {MOST} files)")
        return
    files.extend(str(file.relative_to(path)) for file in kept)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            if not FOLDERS.fullmatch(entry.name):
                yield from _walk(entry)
        elif not entry.is_dir():
            yield entry


def _is_carried(file: Path) -> bool:
    """Whether a file has no tensors, training state or results of one member."""
    name = file.name
    return file.is_file() and not (
        name.endswith((*READABLE, *FOREIGN))
        or STALE.fullmatch(name)
        or (TRAINER.fullmatch(name) and file.suffix not in TEXTS)
    )


def obstacle(file: Path, root: Path) -> str | None:
    """Reason why a file cannot be copied.

    Parameters
    ----------
    file : Path
        Path of an existing file.
    root : Path
        Folder that links must not leave, see `repository`.

    Returns
    -------
    str or None
        None if the file can be copied.
    """
    if not _is_inside(file, root):
        return "a link that leaves the directory"
    if _is_pointer(file):
        return "a git-LFS pointer, not the file that it points to"
    if file.stat().st_size > LARGEST:
        return f"more than {LARGEST >> 20} MiB"
    return None


def repository(path: Path) -> Path:
    """Folder that links must not leave; in a Hugging Face cache the model's folder."""
    full = path.resolve()
    for folder in (full, *full.parents):
        if folder.name == "snapshots" and (folder.parent / "blobs").is_dir():
            return folder.parent
    return full


def _is_pointer(file: Path) -> bool:
    if file.stat().st_size > SMALLEST:
        return False
    return read_regular(file).startswith(POINTER)


def _is_inside(file: Path, root: Path) -> bool:
    return not file.is_symlink() or file.resolve().is_relative_to(root)
