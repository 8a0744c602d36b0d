"""Format of the output, and reasons why it cannot be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ensembles.checkpoints.directories import directory
from ensembles.checkpoints.directories.discovery import SUFFIXES, TORCH_SUFFIXES
from ensembles.checkpoints.formats.checkpoint import Checkpoint

# Suffixes beside weight files; a directory with other files is not replaced.
AROUND = (".json", ".txt", ".md", ".model", ".jinja", ".py", ".tiktoken", ".vocab")
LONGEST_MARK = 80  # bytes that a temporary name adds to the name of the output


def kind_of(out: Path | None) -> str:
    """Format of the output, by its suffix.

    Parameters
    ----------
    out : Path or None
        Path of the output; None for a state dict in memory.

    Returns
    -------
    {"safetensors", "torch", "directory", "memory"}
        "directory" unless the suffix is that of a weight file.
    """
    if out is None:
        return "memory"
    if out.suffix == ".safetensors":
        return "safetensors"
    return "torch" if out.suffix in TORCH_SUFFIXES else "directory"


def obstacles(
    out: Path, members: Sequence[Checkpoint], n_bytes: int
) -> tuple[list[str], int]:
    """Reasons why an output cannot be written, and the free space on its disk.

    Parameters
    ----------
    out : Path
        Path of the output; its parent must be a directory.
    members : sequence of Checkpoint
        Members, which the output must not replace or change.
    n_bytes : int
        Size of the output's tensors in bytes.

    Returns
    -------
    problems : list of str
        Error messages, empty if the output can be written.
    n_free : int
        Free bytes on the disk; 0 if ``out`` is not a valid path.
    """
    folder = out.parent
    if out.name in ("", ".."):
        return [f"the output must have a name of its own, found {out}"], 0
    if out.name == "-":
        return ["the output must be a path, found -, the standard output"], 0
    if not folder.is_dir():
        return [f"there is no folder {folder} to write {out.name} in"], 0
    free = shutil.disk_usage(folder).free
    problems = []
    if n_bytes > free:
        problems.append(f"{out} needs {n_bytes} bytes, its disk has {free} left")
    if not os.access(folder, os.W_OK):
        problems.append(f"{folder} cannot be written to; choose another place")
    if len(os.fsencode(out.name)) + LONGEST_MARK > os.pathconf(folder, "PC_NAME_MAX"):
        problems.append(f"the name {out.name!r} is too long; choose another")
    if members[0].kind != "directory" and out.suffix not in ("", *SUFFIXES):
        problems.append(
            f"{out} has a suffix that names no format (known: {', '.join(SUFFIXES)}; "
            "none is a directory)"
        )
    return problems + _standing(out, members), free


def _standing(out: Path, members: Sequence[Checkpoint]) -> list[str]:
    for member in members:
        is_folder = member.path is not None and member.kind == "directory"
        if is_folder and Path(str(member.path)).resolve() in out.resolve().parents:
            return [
                f"{out} is inside the member {member.name}, of which nothing may "
                "change; choose a place outside of it"
            ]
    if not os.path.lexists(out):
        return []
    for member in members:
        found = member.path.resolve() if member.path else None
        if found and out.resolve() in (found, *found.parents):
            return [f"{out} is or holds the member {member.name}; choose another name"]
    foreign = _foreign(out, members[0].files) if out.is_dir() else None
    if foreign:
        return [
            f"{out} is not replaced: it holds {foreign}, which is no part of a "
            "checkpoint; choose another name"
        ]
    return []


def _foreign(folder: Path, files: Sequence[str]) -> str | None:
    """First entry of a directory that is not part of a checkpoint, None if absent."""
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        return "the current folder"
    known = {*directory.modules(folder), "additional_chat_templates"}
    known |= {Path(name).parts[0] for name in files}
    for path in sorted(folder.iterdir()):
        own = path.suffix in (*SUFFIXES, *AROUND) or path.name == ".gitattributes"
        if path.name not in known and (path.is_dir() or not own):
            return path.name
    return None
