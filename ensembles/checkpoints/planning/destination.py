"""Format of the output, and reasons why it cannot be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.directories.modules import module_classes
from ensembles.checkpoints.directories.weight_files import is_directory_part
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.detection import format_by_suffix, writer_for
from ensembles.dtypes import is_float

# Suffixes beside weight files; a directory with other files is not replaced.
AROUND = (".json", ".txt", ".md", ".model", ".jinja", ".py", ".tiktoken", ".vocab")
LONGEST_MARK = 80  # bytes that a temporary name adds to the name of the output


def output_format(out: Path | None) -> str:
    """Format of the output, by its suffix.

    Parameters
    ----------
    out : Path or None
        Path of the output; None for a state dict in memory.

    Returns
    -------
    str
        Name in `FORMATS`; "directory" if no format has the suffix, "memory" without a
        path.
    """
    if out is None:
        return "memory"
    format_ = format_by_suffix(out.name)
    return "directory" if format_ is None else format_.name


def resolved_link(out: str | os.PathLike[str] | None, *, force: bool) -> Path | None:
    """Path of the output, with a symbolic link resolved so that the link is kept.

    Parameters
    ----------
    out : path or None
        Path of the output; None for a state dict in memory.
    force : bool
        Whether the link may lead to a path that does not exist.

    Returns
    -------
    Path or None

    Raises
    ------
    ValueError
        If the link leads to itself.
    FileExistsError
        If it leads to a path that does not exist, unless ``force``.
    """
    if out is None or not Path(out).is_symlink():
        return None if out is None else Path(out)
    target = Path(os.path.realpath(out))
    if target.is_symlink():
        raise ValueError(f"{out} is a symbolic link that leads to itself; remove it")
    if not force and not Path(out).exists():
        raise FileExistsError(
            f"{out} is a symbolic link to {target}, which does not exist; pass "
            "force=True (--force) to write to that path"
        )
    return target


def destination_problems(
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
        Size of the output in bytes.

    Returns
    -------
    problems : list of str
        Error messages; empty if the output can be written.
    n_free : int
        Free bytes on the disk; 0 if ``out`` is not a valid path.
    """
    folder = out.parent
    if out.name in ("", ".."):
        return [f"the output must be the path of a file or directory, found {out}"], 0
    if out.name == "-":
        return ["the output must be a path, found - (standard output)"], 0
    if not folder.is_dir():
        return [f"the folder of the output must exist: create {folder}"], 0
    n_free = shutil.disk_usage(folder).free
    problems = []
    if n_bytes > n_free:
        problems.append(f"{out} needs {n_bytes} bytes, its disk has {n_free} left")
    if not os.access(folder, os.W_OK):
        problems.append(f"{folder} is not writable; choose another folder")
    if len(os.fsencode(out.name)) + LONGEST_MARK > os.pathconf(folder, "PC_NAME_MAX"):
        problems.append(f"the name {out.name!r} is too long; choose a shorter one")
    is_new_directory = out.suffix == "" or members[0].is_directory
    if output_format(out) != "directory" or not is_new_directory:
        try:
            writer_for(str(out))
        except ValueError as error:
            problems.append(str(error))
    return problems + _replacement_problems(out, members), n_free


def storage_problems(
    out: Path, targets: Sequence[TensorPlan], first: Checkpoint
) -> Iterator[str]:
    """Reasons why the format of the output cannot store the result.

    Parameters
    ----------
    out : Path
        Path of the output, whose suffix determines the format.
    targets : sequence of TensorPlan
        Tensors of the result.
    first : Checkpoint
        First member, whose contents some formats keep.

    Yields
    ------
    str
        Error message with advice.
    """
    format_ = format_by_suffix(out.name)
    if format_ is None:
        return
    if format_.needs_first and first.format != format_.name:
        yield (
            f"{out} must have a first member of the format {format_.name!r}, whose "
            f"metadata it keeps; {first.name} has the format {first.format!r}: write a "
            "directory, and convert that"
        )
    names: dict[str, list[str]] = {}
    for target in targets:
        if format_.dtypes is not None and target.dtype not in format_.dtypes:
            names.setdefault(str(target.dtype), []).append(target.name)
    for dtype, of_dtype in names.items():
        advice = "choose another format, such as .safetensors"
        if is_float(np.dtype(dtype)):
            advice = f"pass dtype='float32' (--dtype float32), or {advice}"
        yield (
            f"{out} cannot store {dtype}, the dtype of {len(of_dtype)} tensors, such "
            f"as {of_dtype[0]!r}; {advice}"
        )


def _replacement_problems(out: Path, members: Sequence[Checkpoint]) -> list[str]:
    """Reasons why an output would replace or change a member or other files."""
    members = [origin for m in members for origin in (m, *m.origins)]
    for member in members:
        if member.path is None or not member.is_directory:
            continue
        if member.path.resolve() in out.resolve().parents:
            return [
                f"{out} is inside the member {member.name}, which must not change; "
                "choose a path outside of it"
            ]
    if not os.path.lexists(out):
        return []
    target = out.resolve()
    for member in members:
        for path in map(Path.resolve, _paths(member)):
            if target in (path, *path.parents):
                return [
                    f"{out} is or contains the member {member.name}; choose another "
                    "name"
                ]
    if out.is_dir() and os.path.ismount(out):
        return [
            f"{out} is a mount point, which cannot be replaced; choose a path in it"
        ]
    foreign = _foreign(out, members[0]) if out.is_dir() else None
    if foreign:
        return [
            f"{out} must not be replaced: it contains {foreign}, which is not part of "
            "a checkpoint; choose another name"
        ]
    return []


def _paths(member: Checkpoint) -> list[Path]:
    """Paths of a member and its files, which may be links to other directories."""
    if member.path is None:
        return []
    stored = [name for name in member.files if name not in member.contents]
    names = [*member.parts, *stored] if member.is_directory else []
    return [member.path, *(member.path / name for name in names)]


def _foreign(folder: Path, first: Checkpoint) -> str | None:
    """First entry of a directory that is not part of a checkpoint, None if absent."""
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        return "the current folder"
    parts = {*module_classes(folder), "additional_chat_templates", ".gitattributes"}
    copied = [*first.files, *first.training_files]
    parts |= {Path(name).parts[0] for name in copied}
    for path in sorted(folder.iterdir()):
        has_suffix = path.suffix in AROUND or is_directory_part(path.name)
        if path.name not in parts and (path.is_dir() or not has_suffix):
            return path.name
    return None
