"""Distributed checkpoints of PyTorch (DCP): directories with chunks of tensors.

FSDP, torchtitan, OLMo-core, Megatron (``torch_dist``), Lightning and Accelerate write
them. Each rank writes its chunks into files of its own, and one rank describes them all
in ``.metadata``, at the end.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories.auxiliary_files import auxiliary_files
from ensembles.checkpoints.directories.weight_files import (
    main_weight_files,
    other_weight_files,
)
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    Keys,
    Tensor,
)
from ensembles.checkpoints.formats.distributed.items import open_tensors
from ensembles.checkpoints.formats.distributed.metadata import (
    NAME,
    DistributedMetadata,
    ShardedTensor,
    read_metadata,
)
from ensembles.checkpoints.formats.pytorch_files.nesting import state_dict_in
from ensembles.checkpoints.formats.pytorch_files.tensors import Storage, StoredTensor
from ensembles.regular_files import read_json

# Folders for the model in the checkpoints of OLMo-core, Accelerate and NeMo.
FOLDERS = re.compile(r"model_and_optim|pytorch_model_fsdp_\d+|(model_)?weights")
# Keys of the training state; Megatron has it beside the names of the model.
STATE = (
    r"(?:chained_\d+\.)?optim(?:izer)?s?(?:[_-]?\d+)?|(?:lr_)?schedulers?(?:[_-]?\d+)?"
    r"|rng_state|rerun_state_machine_state|opt_param_scheduler"
)
TRAINING_KEY = re.compile(STATE)
TRAINING_NAME = re.compile(f"({STATE})[./]")
MEGATRON = "metadata.json"  # the format of its checkpoint, not of the result
SHOWN = 5
KeyPath = tuple[str, ...]


def folder_in(path: Path) -> Path | None:
    """Folder of the distributed checkpoint in a directory.

    Parameters
    ----------
    path : Path
        Path of a directory.

    Returns
    -------
    Path or None
        The directory itself, or its folder for the model; None if the directory has
        usual weight files, or no distributed checkpoint.

    Raises
    ------
    ValueError
        If it has several models in such folders.
    """
    if main_weight_files(path)[0]:
        return None
    if (path / NAME).is_file():
        return path
    inside = [
        entry
        for entry in sorted(path.iterdir())
        if FOLDERS.fullmatch(entry.name) and (entry / NAME).is_file()
    ]
    if len(inside) > 1:
        raise ValueError(
            f"{path} has {len(inside)} models: {', '.join(e.name for e in inside)}; "
            "pass one of these folders"
        )
    return inside[0] if inside else None


def read(path: Path, folder: Path, key: Keys = None) -> Checkpoint:
    """Layout of a distributed checkpoint, from its file ``.metadata`` alone.

    Parameters
    ----------
    path : Path
        Path of the checkpoint directory.
    folder : Path
        Folder with the chunks, see `folder_in`.
    key : str, sequence of str or None, default=None
        Key of the state dict, with dots between nested keys, or several keys of the
        parts of one model; None finds it, without the state of the optimizer.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If ``.metadata`` or a file is damaged or missing, the chunks of a tensor do not
        cover it exactly once, or no state dict is found.
    """
    n_bytes = sum(entry.stat().st_size for entry in folder.iterdir())
    metadata = read_metadata(folder / NAME, n_bytes)
    paths = {name: _path(metadata, name) for name in metadata.tensors}
    left_out = {} if key else _training_state(paths)
    paths = {name: paths[name] for name in paths.keys() - left_out.keys()}
    if left_out and not paths:
        keys = _listed(set(left_out.values()))
        raise ValueError(
            f"{folder} has training state alone, under {keys}; choose a part of it "
            "with key=NAME (--key NAME)"
        )
    wrapper = () if key else _wrapper(paths)
    content = _nested(folder, metadata, paths, len(wrapper))
    chosen = state_dict_in(content, key, folder)
    names = {
        name: value.storage.key
        for name, value in chosen.tensors.items()
        if value.storage is not None
    }
    layout = open_tensors(folder, metadata, names)
    inside = "" if folder == path else f"{folder.name}/"
    parts: dict[str, list[str]] = {}
    for name, full_name in names.items():
        for index, item in enumerate(metadata.tensors[full_name].items):
            part = parts.setdefault(inside + item.file, [])
            if index == 0:
                part.append(name)
    return sharded(
        path,
        layout,
        dict(sorted(parts.items())),
        folders=["", folder.name] if inside else [""],
        keys=tuple(".".join([*wrapper, key]) for key in chosen.keys)
        or ((".".join(wrapper),) if wrapper else ()),
        notes=[*chosen.notes, *_notes(metadata, set(names.values()), left_out)],
    )


def sharded(
    path: Path,
    layout: dict[str, Tensor],
    parts: dict[str, list[str]],
    *,
    folders: list[str],
    keys: tuple[str, ...],
    notes: list[str],
    records: Sequence[ChecksumRecord] = (),
) -> Checkpoint:
    """Checkpoint of a directory whose files have parts of tensors.

    Parameters
    ----------
    path : Path
        Path of the directory.
    layout, parts, keys, notes, records
        As in `Checkpoint`.
    folders : list of str
        Folders with these files, relative to ``path``; the directory itself is ``""``.

    Returns
    -------
    Checkpoint
        With the auxiliary files beside the parts, and notes on what is left out.
    """
    files, left_out = auxiliary_files(path, folders)
    left_out += [
        name
        for name in other_weight_files(path, [])[1]
        if not re.search(r"_world_size_\d+_rank_\d+", name)
    ]
    if left_out:
        notes = [*notes, f"not in the result: {', '.join(left_out)}"]
    listed = path / "config.json"
    config = read_json(listed) if listed.exists() else {}
    return Checkpoint(
        str(path),
        "pytorch",
        path,
        layout,
        is_directory=True,
        is_distributed=True,
        parts=parts,
        files=[name for name in files if name != MEGATRON],
        config=config if isinstance(config, dict) else {},
        records=[*records],
        keys=keys,
        notes=notes,
    )


def _path(metadata: DistributedMetadata, name: str) -> KeyPath:
    """Keys that lead to a value; without any, it is at the top level."""
    return metadata.key_paths.get(name, (name,))


def _training_state(paths: Mapping[str, KeyPath]) -> dict[str, str]:
    """Full names of tensors of the training state, each with the key of their group.

    If most others are at the top level, as torchtitan has them, so is the model; then
    nested mappings beside it, such as a step counter, are training state too.
    """
    groups = {name: _group(name, path) for name, path in paths.items()}
    training = {name: group for name, group in groups.items() if group}
    others = Counter(
        path[0] if len(path) > 1 else ""
        for name, path in paths.items()
        if name not in training
    )
    if others and others.most_common(1)[0][0] == "":
        training |= {name: path[0] for name, path in paths.items() if len(path) > 1}
    return training


def _group(name: str, path: KeyPath) -> str | None:
    """Key of the training state to which a value belongs, None for other values."""
    for n_keys, step in enumerate(path[:-1], 1):
        if TRAINING_KEY.fullmatch(step):
            return ".".join(path[:n_keys])
    named = TRAINING_NAME.match(name)
    return named[1] if named else None


def _wrapper(paths: Mapping[str, KeyPath]) -> KeyPath:
    """Keys around the state dicts, such as "app" of the recipe in PyTorch's guide."""
    wrapper: KeyPath = ()
    while paths and all(len(path) > len(wrapper) + 2 for path in paths.values()):
        first_keys = {path[: len(wrapper) + 1] for path in paths.values()}
        if len(first_keys) > 1:
            break
        (wrapper,) = first_keys
    return wrapper


def _nested(
    folder: Path,
    metadata: DistributedMetadata,
    paths: Mapping[str, KeyPath],
    depth: int,
) -> dict[str, Any]:
    """State dict with tensors as its values, without the first keys of each path."""
    content: dict[str, Any] = {}
    for name in filter(paths.__contains__, metadata.tensors):
        inner = content
        for step in paths[name][depth:-1]:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ValueError(
                    f"{folder / NAME} has both a tensor and a mapping at {step!r:.80}; "
                    "copy or download it again"
                )
        inner[paths[name][-1]] = _stand_in(name, metadata.tensors[name])
    return content


def _stand_in(name: str, tensor: ShardedTensor) -> StoredTensor:
    """A tensor of the same dtype and shape, whose storage is named by the full name."""
    steps = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    storage = Storage(name, tensor.dtype, math.prod(tensor.shape))
    return StoredTensor(storage, tensor.dtype, 0, tensor.shape, tuple(steps))


def _notes(
    metadata: DistributedMetadata, used: set[str], left_out: Mapping[str, str]
) -> Iterator[str]:
    """Notes on tensors that are left out, and on values that are not tensors."""
    groups = Counter(left_out.values())
    if groups:
        listed = ", ".join(
            f"{name} ({n} tensor{'s' * (n > 1)})" for name, n in groups.items()
        )
        yield f"left out, as training state: {listed}"
    parents = {_path(metadata, name)[:-1] for name in used}
    extra = [
        name
        for name in metadata.others
        if not _group(name, _path(metadata, name))
        and _is_below(_path(metadata, name), parents)
    ]
    if extra:
        yield f"left out, as they are not tensors: {_listed(extra)}"


def _is_below(path: KeyPath, parents: set[KeyPath]) -> bool:
    """Whether a value belongs to a state dict; others may be beside it at the top."""
    if len(path) == 1:
        return () in parents
    return any(path[:n] in parents for n in range(1, len(path)))


def _listed(names: Collection[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(sorted(names)[:SHOWN]) + (f" and {more} more" if more > 0 else "")
