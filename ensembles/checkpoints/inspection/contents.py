"""Contents of a checkpoint, from its headers alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.checkpoints.compatibility.configuration import is_card
from ensembles.checkpoints.directories.open import Member, open_checkpoint
from ensembles.checkpoints.directories.unsupported import unsupported_reasons
from ensembles.checkpoints.directories.weight_files import TRAINER, is_weight_file
from ensembles.checkpoints.formats import detection
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    FileContents,
    Keys,
    TensorInfo,
)
from ensembles.checkpoints.formats.table import Format
from ensembles.checkpoints.inspection.module_tree import Module, module_tree
from ensembles.checkpoints.merging.relations import recipe_of


class StateDictInfo(NamedTuple):
    """A state dict in a file, other than the inspected one.

    Parameters
    ----------
    key : str
        Key of the state dict, with dots between nested keys, as ``key`` takes it; empty
        for tensors beside the state dicts.
    n_tensors : int
        Number of its tensors.
    n_parameters : int
        Number of elements of its tensors.
    nbytes : int
        Number of bytes of its tensors.
    """

    key: str
    n_tensors: int
    n_parameters: int
    nbytes: int


class FileInfo(NamedTuple):
    """A file or folder of a checkpoint directory.

    Parameters
    ----------
    name : str
        Path relative to the directory, with a slash at the end for a folder.
    nbytes : int or None
        Size of the file in bytes; None for a folder.
    role : {"weights", "copied", "rewritten", "other"}
        Whether an average combines its tensors, copies it, writes a new one (an index
        or a model card), or leaves it out.
    """

    name: str
    nbytes: int | None
    role: str


@dataclass(frozen=True)
class Inspection:
    """Contents of a checkpoint.

    Parameters
    ----------
    name : str
        Path of the checkpoint, or ``members[0]`` for a state dict in memory.
    format : str
        Name of the format of the (main) weight files; empty if no file can be read.
    is_directory : bool
        Whether the checkpoint is a directory.
    state_dict : str or None
        Key of the inspected state dict; None if the file holds a single one.
    tensors : list of TensorInfo
        Stored tensors, in the order of the file.
    aliases : dict of str to str
        Additional names for tied tensors: alias to name.
    state_dicts : list of StateDictInfo
        Other state dicts in the file, such as those of an optimizer or a moving
        average.
    values : dict of str to str
        Other contents of a PyTorch file, such as the step, as short texts.
    files : list of FileInfo
        Files of a directory.
    metadata : dict of str to str
        Metadata of the (first) weight file.
    recipe : dict or None
        Provenance, if the checkpoint is a result of `average`.
    refusals : list of str
        Reasons why the checkpoint cannot be averaged; empty if it can.
    notes : list of str
        Messages about contents that an average leaves out or chooses.
    """

    name: str
    format: str
    is_directory: bool = False
    state_dict: str | None = None
    tensors: list[TensorInfo] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    state_dicts: list[StateDictInfo] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    files: list[FileInfo] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def tree(self) -> Module:
        """Tree of the modules, with numbered modules of one structure as one node."""
        return module_tree(self.tensors)


def inspect(checkpoint: Member, *, key: Keys = None) -> Inspection:
    """Contents of a checkpoint: tensors, other state dicts, files and metadata.

    Reads headers only. A checkpoint that cannot be averaged, such as an adapter, is
    listed too, with the reasons, as long as the header of a file can be read.

    Parameters
    ----------
    checkpoint : path or state dict
        Checkpoint file, directory, or mapping of names to arrays or tensors.
    key : str or None, default=None
        Key of the state dict in a PyTorch file, with dots between nested keys; None
        finds it.

    Returns
    -------
    Inspection

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If no file has a header that can be read.

    Examples
    --------
    >>> import numpy as np
    >>> found = inspect({"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2)})
    >>> found.tree.n_parameters, found.tree.nbytes
    (8, 64)
    """
    try:
        opened = open_checkpoint(checkpoint, 0, key=key)
    except ValueError as error:
        if not isinstance(checkpoint, str | os.PathLike):
            raise
        return _rejected(Path(checkpoint), error)
    contents = FileContents({})
    if opened.path is not None and not opened.is_directory:
        contents = _contents_of(opened.path) or contents
    return Inspection(
        name=opened.name,
        format=opened.format,
        is_directory=opened.is_directory,
        state_dict=opened.state_dict,
        tensors=_tensors_of(opened),
        aliases=opened.aliases,
        state_dicts=_state_dicts(contents, opened.keys or ("",)),
        values=contents.values,
        files=_files(opened) if opened.is_directory else [],
        metadata=opened.metadata,
        recipe=recipe_of(opened),
        refusals=list(unsupported_reasons(opened)),
        notes=opened.notes,
    )


def _tensors_of(checkpoint: Checkpoint) -> list[TensorInfo]:
    return [
        TensorInfo(name, str(tensor.dtype), tensor.shape, tensor.nbytes)
        for name, tensor in checkpoint.layout.items()
    ]


def _contents_of(path: Path) -> FileContents | None:
    """Contents of a file by its format; None if the format does not list them."""
    format_ = detection.detect(path) or detection.format_by_suffix(path.name)
    if not isinstance(format_, Format) or format_.contents is None:
        return None
    return format_.contents(path)


def _state_dicts(
    contents: FileContents, chosen: tuple[str, ...]
) -> list[StateDictInfo]:
    """State dicts other than the chosen ones."""
    return [
        StateDictInfo(
            key,
            len(tensors),
            sum(tensor.size for tensor in tensors),
            sum(tensor.nbytes for tensor in tensors),
        )
        for key, tensors in contents.state_dicts.items()
        if key not in chosen
    ]


def _files(checkpoint: Checkpoint) -> list[FileInfo]:
    """Files of a directory and their roles, by name."""
    folder = Path(str(checkpoint.path))
    roles = dict.fromkeys(checkpoint.files, "copied")
    roles |= dict.fromkeys(checkpoint.parts, "weights")
    inside = {name.partition("/")[0] for name in roles if "/" in name}
    for entry in folder.iterdir():
        if entry.name not in inside:
            name = f"{entry.name}/" if entry.is_dir() else entry.name
            roles.setdefault(name, "other")
    for name in roles:
        if is_card(name) or name.endswith(".index.json"):
            roles[name] = "rewritten"
    return [
        FileInfo(name, None if name[-1] == "/" else _size(folder / name), role)
        for name, role in sorted(roles.items())
    ]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0  # it may be a broken link


def _rejected(path: Path, error: ValueError) -> Inspection:
    """Contents of a checkpoint that `average` rejects, file by file."""
    files = [path]
    if path.is_dir():
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
        files = [path / name for name in sorted(names) if _has_tensors(name)]
    contents: dict[str, FileContents] = {}
    notes = []
    for file in files:
        try:
            listed = _listed(file)
        except ValueError as other:
            notes += [] if file == path else [str(other)]
        else:
            contents[file.name] = listed
    if not contents:
        raise error
    first = next(iter(contents.values()))
    layout = Checkpoint(str(path), "", path, {}, is_directory=path.is_dir())
    layout.parts.update({name: [] for name in contents if path.is_dir()})
    single = len(contents) == 1
    return Inspection(
        name=str(path),
        format=_format_name(path / next(iter(contents)) if path.is_dir() else path),
        is_directory=path.is_dir(),
        tensors=list(_prefixed(contents)),
        state_dicts=_state_dicts(first, ("",)) if single else [],
        values=first.values if single else {},
        files=_files(layout) if path.is_dir() else [],
        metadata=first.metadata,
        refusals=[str(error)],
        notes=notes,
    )


def _has_tensors(name: str) -> bool:
    return is_weight_file(name) and not TRAINER.fullmatch(name)


def _listed(file: Path) -> FileContents:
    """Contents of a file; its layout if the format lists nothing more."""
    contents = _contents_of(file)
    if contents is None:
        return FileContents({"": _tensors_of(detection.read(file))})
    return contents


def _format_name(path: Path) -> str:
    format_ = detection.detect(path) or detection.format_by_suffix(path.name)
    return format_.name if isinstance(format_, Format) else ""


def _prefixed(contents: Mapping[str, FileContents]) -> Iterator[TensorInfo]:
    """Tensors of several files, with the file in the name if a name occurs twice."""
    tensors = {
        file: listed.state_dicts.get("", []) for file, listed in contents.items()
    }
    names = [tensor.name for stored in tensors.values() for tensor in stored]
    is_ambiguous = len({*names}) < len(names)
    for file, stored in tensors.items():
        prefix = f"{file}/" if is_ambiguous else ""
        for tensor in stored:
            yield tensor._replace(name=prefix + tensor.name)
