"""Open a member from a path or a state dict in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories import directory, distributed, rank_files
from ensembles.checkpoints.directories.auxiliary_files import auxiliary_files
from ensembles.checkpoints.directories.unsupported import placeholder_notes
from ensembles.checkpoints.directories.weight_files import main_weight_files
from ensembles.checkpoints.formats import detection, state_dict
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    Keys,
    UnsupportedSource,
)

# Of DeepSpeed: the parameters of one tensor-parallel rank, and other states beside.
MODEL_STATES = re.compile(r"mp_rank_\d+_model_states\.pt")
STATES = re.compile(r".*[-_](model|optim)_states\.pt")
Member = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


def open_checkpoint(member: Member, index: int, *, key: Keys = None) -> Checkpoint:
    """Read the layout of a member, all of whose tensors can be averaged.

    Parameters
    ----------
    member, index, key
        As in `read_layout`.

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
        If the checkpoint is damaged, has an unsupported format, or a tensor that cannot
        be averaged.
    """
    checkpoint = read_layout(member, index, key=key)
    for tensor in checkpoint.layout.values():
        if isinstance(tensor.source, UnsupportedSource):
            raise ValueError(tensor.source.message)
    return checkpoint


def read_layout(member: Member, index: int, *, key: Keys = None) -> Checkpoint:
    """Read the layout of a member, without its tensors.

    Tensors that cannot be averaged have an `UnsupportedSource`.

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
        return _read_file(path, key)
    folder = distributed.folder_in(path)
    if folder is not None:
        return distributed.read(path, folder, key)
    if rank_files.has_rank_files(path):
        return rank_files.read(path, key)
    states = model_states(path)
    if states is not None:
        return _read_states(path, states, key)
    return directory.read(path, key)


def _read_file(path: Path, key: Keys) -> Checkpoint:
    """Layout of a file; raise `ValueError` for one of several parts of a model."""
    checkpoint = detection.read(path, key)
    list_contents = FORMATS["pytorch"].contents
    if MODEL_STATES.fullmatch(path.name) and list_contents is not None:
        n_ranks = list_contents(path).values.get("mp_world_size", "1")
        if n_ranks != "1":
            raise ValueError(
                f"{path} has one of {n_ranks} parts of a model with tensor "
                "parallelism (mp_world_size); join them with ds_to_universal.py of "
                "DeepSpeed"
            )
    return checkpoint


def model_states(path: Path) -> Path | None:
    """File with all parameters in a directory of DeepSpeed's ZeRO-1 or ZeRO-2.

    Parameters
    ----------
    path : Path
        Path of the directory of a step, such as ``global_step100``.

    Returns
    -------
    Path or None
        None for other directories, and for checkpoints whose parameters are in several
        files: ZeRO-3, tensor or pipeline parallelism, or a mixture of experts.
    """
    if main_weight_files(path)[0]:
        return None
    states = [file for file in path.iterdir() if STATES.fullmatch(file.name)]
    models = [file for file in states if not file.name.endswith("optim_states.pt")]
    if len(models) == 1 and MODEL_STATES.fullmatch(models[0].name):
        return models[0]
    return None


def _read_states(path: Path, states: Path, key: Keys) -> Checkpoint:
    """Layout of the parameters in a directory of DeepSpeed."""
    file = _read_file(states, key)
    n_files = sum(name.endswith("optim_states.pt") for name in os.listdir(path))
    notes = [
        f"read {states.name}; {n_files} files with the state of the optimizer are left "
        "out, with their float32 copies of the parameters, which zero_to_fp32.py joins"
    ] * (n_files > 0)
    return replace(
        file,
        name=str(path),
        path=path,
        is_directory=True,
        is_distributed=True,
        files=auxiliary_files(path, [""])[0],
        notes=[*file.notes, *notes],
    )
