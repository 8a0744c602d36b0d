"""Open a member from a path or a state dict in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories import directory, distributed, rank_files
from ensembles.checkpoints.directories.unsupported import placeholder_notes
from ensembles.checkpoints.formats import detection, state_dict
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys

Member = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


def open_checkpoint(member: Member, index: int, *, key: Keys = None) -> Checkpoint:
    """Read the layout of a member, without its tensors.

    Parameters
    ----------
    member : path, state dict or Checkpoint
        Path of a file or directory, or a mapping of names to arrays or tensors. A
        `Checkpoint` is returned as it is.
    index : int
        Position among the members, for messages about state dicts.
    key : str, sequence of str or None, default=None
        Key of the state dict in a PyTorch checkpoint, with dots between nested keys;
        None finds it.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    TypeError
        If the member is neither a path nor a state dict.
    ValueError
        If the checkpoint is damaged or has an unsupported format.
    """
    if isinstance(member, Checkpoint):
        return member
    if isinstance(member, Mapping):
        return state_dict.read(member, f"members[{index}]")
    if not isinstance(member, str | os.PathLike):
        hint = "; pass its .state_dict()" if hasattr(member, "state_dict") else ""
        raise TypeError(
            f"members must be paths or state dicts: members[{index}] has type "
            f"{type(member).__name__}{hint}"
        )
    path = Path(member)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    checkpoint = _read(path, key)
    checkpoint.notes.extend(placeholder_notes(checkpoint))
    return checkpoint


def _read(path: Path, key: Keys) -> Checkpoint:
    """Layout of a file or directory."""
    if path.suffix == ".distcp":
        raise ValueError(
            f"{path} has the chunks of one rank; pass its directory {path.parent}"
        )
    if not path.is_dir():
        return detection.read(path, key)
    folder = distributed.folder_in(path)
    if folder is not None:
        return distributed.read(path, folder, key)
    if rank_files.has_rank_files(path):
        return rank_files.read(path, key)
    return directory.read(path, key)
