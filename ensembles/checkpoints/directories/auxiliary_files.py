"""Find the files of a checkpoint directory that an average copies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ensembles.checkpoints.directories.weight_files import (
    COPIES,
    FOREIGN,
    TRAINER,
    is_directory_part,
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
# Folders with the training state and the model of DeepSpeed and FSDP.
SHARDED_STATE = re.compile(r"global_step\d+|(optimizer|pytorch_model_fsdp)_\d+")
PROGRESS = "trainer_state.json"  # of transformers: step, epoch and log
# Code and settings are copied even if they are named like training state.
TEXTS = (".py", ".json", ".yaml", ".yml")
POINTER = b"version https://git-lfs"
SMALLEST = 1024  # bytes; a git-LFS pointer is not larger
MOST = 1000  # files examined in one subfolder


def auxiliary_files(path: Path, modules: list[str]) -> tuple[list[str], list[str]]:
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
    left_out : list of str
        Files and folders that may be needed but are not copied, with the reason.
    """
    files: list[str] = []
    left_out: list[str] = []
    root = link_root(path)
    for module in modules:
        folder = path / module
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            name = str(entry.relative_to(path))
            if entry.is_dir():
                if name not in modules and not _is_known(entry.name):
                    _add_folder(entry, path, root, files, left_out)
            elif _is_auxiliary(entry):
                reason = reason_not_copied(entry, root)
                if reason is None:
                    files.append(name)
                else:
                    left_out.append(f"{name} ({reason})")
    return files, left_out


def training_files(path: Path) -> list[str]:
    """Files and folders of a checkpoint directory with training state.

    Parameters
    ----------
    path : Path
        Path of the checkpoint directory.

    Returns
    -------
    list of str
        Names of files such as ``optimizer.pt``, then of folders, which end in a slash
        and may contain the model too.
    """
    entries = sorted(path.iterdir())
    return [entry.name for entry in entries if _is_training_file(entry)] + [
        f"{entry.name}/"
        for entry in entries
        if entry.is_dir() and SHARDED_STATE.fullmatch(entry.name)
    ]


def _is_training_file(entry: Path) -> bool:
    is_named = TRAINER.fullmatch(entry.name) and entry.suffix not in TEXTS
    return entry.is_file() and bool(is_named or entry.name == PROGRESS)


def _is_known(folder: str) -> bool:
    patterns = (FOLDERS, SHARDED_STATE)
    return any(p.fullmatch(folder) for p in patterns) or folder in COPIES


def _add_folder(
    folder: Path, path: Path, root: Path, files: list[str], left_out: list[str]
) -> None:
    """Add the auxiliary files of a subfolder, or the reason to leave it out."""
    name = f"{folder.relative_to(path)}/"
    if not _is_inside(folder, root):
        left_out.append(f"{name} (a link out of the directory)")
        return
    entries = list(islice(_walk(folder), MOST + 1))
    if any(_has_weights(file.name) for file in entries):
        if not NUMBERED.fullmatch(folder.name):
            left_out.append(f"{name} (a folder with weight files)")
        return
    copied = []
    for file in filter(_is_auxiliary, entries):
        reason = reason_not_copied(file, root)
        if reason is None:
            copied.append(file)
        else:
            left_out.append(f"{file.relative_to(path)} ({reason})")
    if len(entries) > MOST or sum(file.stat().st_size for file in copied) > LARGEST:
        left_out.append(f"{name} (more than {LARGEST >> 20} MiB or {MOST} files)")
        return
    files.extend(str(file.relative_to(path)) for file in copied)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            if not FOLDERS.fullmatch(entry.name):
                yield from _walk(entry)
        elif not entry.is_dir():
            yield entry


def _has_weights(name: str) -> bool:
    return is_directory_part(name) or name.endswith(FOREIGN)


def _is_auxiliary(file: Path) -> bool:
    """Whether a file has no tensors, training state or results of one member."""
    name = file.name
    return file.is_file() and not (
        _has_weights(name) or STALE.fullmatch(name) or _is_training_file(file)
    )


def reason_not_copied(
    file: Path, root: Path, *, largest: int | None = LARGEST
) -> str | None:
    """Reason why a file cannot be copied.

    Parameters
    ----------
    file : Path
        Path of an existing file.
    root : Path
        Folder that links must not leave, see `link_root`.
    largest : int or None, default=64 MiB
        Largest size of a file that is copied, in bytes; None copies any.

    Returns
    -------
    str or None
        None if the file can be copied.
    """
    if not _is_inside(file, root):
        return "a link out of the directory"
    if _is_pointer(file):
        return "a git-LFS pointer; fetch the file with git lfs pull"
    if largest is not None and file.stat().st_size > largest:
        return f"more than {largest >> 20} MiB"
    return None


def link_root(path: Path) -> Path:
    """Folder that links must not leave: the directory, or the model's in a HF cache."""
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
