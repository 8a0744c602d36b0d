"""Members: from paths, patterns and state dicts to checkpoints."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles.checkpoints.formats import (
    directory,
    safetensors,
    state_dicts,
    torch_zip,
)
from ensembles.checkpoints.formats.checkpoint import Checkpoint

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
Member = str | os.PathLike[str] | Mapping[str, Any]


def open_member(member: Member, index: int, *, key: str | None = None) -> Checkpoint:
    """Read a member's layout, not its tensors.

    Parameters
    ----------
    member : path or state dict
    index : int
        Which of the members it is, for messages.
    key : str or None, default=None
        Where in a file of torch the state dict lies.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If there is no such path.
    TypeError
        If it is neither a path nor a state dict.
    ValueError
        If it is no checkpoint that can be read.
    """
    if isinstance(member, Mapping):
        return state_dicts.read(member, f"members[{index}]")
    if not isinstance(member, str | os.PathLike):
        raise TypeError(
            f"members must be paths or state dicts, members[{index}] is of type "
            f"{type(member).__name__}"
        )
    path = Path(member)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.is_dir():
        return directory.read(path, key)
    if path.suffix == ".safetensors":
        return safetensors.read(path)
    if path.suffix in TORCH_SUFFIXES:
        return torch_zip.read(path, key)
    hint = "; GGUF is quantised, convert it back first" * (path.suffix == ".gguf")
    raise ValueError(
        f"{path} has a suffix that says nothing of its format (known: "
        f"{', '.join(SUFFIXES)}, or a directory){hint}"
    )


def expand(members: Sequence[str], *, last: int | None = None) -> list[str]:
    """Paths of members from paths, patterns and training directories.

    Parameters
    ----------
    members : sequence of str
        A pattern stands for what it matches, sorted by step. A directory that holds
        no weights stands for the checkpoints in it, if ``last`` is given.
    last : int or None, default=None
        Keep so many with the highest steps. A step is the last number in a name.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing.
    ValueError
        If there are fewer than ``last``.
    """
    found = [path for member in members for path in _matches(member, last is not None)]
    if last is None:
        return found
    found.sort(key=_step)
    if not 1 <= last <= len(found):
        raise ValueError(
            f"--last must be from 1 to the number of checkpoints, {len(found)} in "
            f"{' '.join(members)}: found {last}"
        )
    return found[-last:]


def _matches(member: str, inside: bool) -> list[str]:
    path = Path(member)
    if inside and path.is_dir() and not _is_checkpoint(path):
        return sorted(
            (str(entry) for entry in path.iterdir() if _is_checkpoint(entry)), key=_step
        )
    if path.exists() or not glob.has_magic(member):
        return [member]
    matched = sorted(glob.glob(member), key=_step)
    if not matched:
        raise FileNotFoundError(f"no checkpoint matches {member!r}")
    return matched


def _is_checkpoint(path: Path) -> bool:
    if path.name.startswith(".") or directory.TRAINER.fullmatch(path.name):
        return False
    if path.is_dir():
        return any(directory.weight_files(path / m) for m in directory.modules(path))
    return path.suffix in SUFFIXES


def _step(path: str) -> tuple[int, str]:
    numbers = re.findall(r"\d+", Path(path).stem)
    return (int(numbers[-1]) if numbers else -1, path)
