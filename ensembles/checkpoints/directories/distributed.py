"""Distributed checkpoints of PyTorch (DCP): directories with chunks of tensors.

FSDP, torchtitan, OLMo-core, Megatron (``torch_dist``), Lightning and Accelerate write
them. Each rank writes its chunks into files of its own, and one rank describes them all
in ``.metadata``, at the end.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
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
FOLDERS = re.compile(r"model_and_optim|pytorch_model_fsdp_\d+|weights")
# Names of values of the training state; Megatron has them beside the model's names.
TRAINING = re.compile(
    r"((chained_\d+\.)?optim(izer)?s?([_-]?\d+)?|(lr_)?schedulers?([_-]?\d+)?"
    r"|rng_state|rerun_state_machine_state|opt_param_scheduler)[./].*"
)
MEGATRON = "metadata.json"  # the format of its checkpoint, not of the result
SHOWN = 5


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


def read(path: Path, folder: Path, key: str | None = None) -> Checkpoint:
    """Layout of a distributed checkpoint, from its file ``.metadata`` alone.

    Parameters
    ----------
    path : Path
        Path of the checkpoint directory.
    folder : Path
        Folder with the chunks, see `folder_in`.
    key : str or None, default=None
        Key of the state dict, with dots between nested keys; None finds it, without
        the state of the optimizer.

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
    content, left_out = _nested(folder, metadata, key)
    chosen = state_dict_in(content, key, folder)
    names = {name: value.storage.key for name, value in chosen.tensors.items()}
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
        state_dict=chosen.key,
        notes=[*chosen.notes, *_notes(metadata, set(names.values()), left_out)],
    )


def sharded(
    path: Path,
    layout: dict[str, Tensor],
    parts: dict[str, list[str]],
    *,
    folders: list[str],
    state_dict: str | None,
    notes: list[str],
    records: Sequence[ChecksumRecord] = (),
) -> Checkpoint:
    """Checkpoint of a directory whose files have parts of tensors.

    Parameters
    ----------
    path : Path
        Path of the directory.
    layout, parts, state_dict, notes, records
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
        state_dict=state_dict,
        notes=notes,
    )


def _nested(
    folder: Path, metadata: DistributedMetadata, key: str | None
) -> tuple[dict[str, Any], list[str]]:
    """State dict with tensors as its values, and full names that are not in it.

    Without a key, the training state is left out. So are smaller nested mappings, such
    as a step counter, if most tensors are at the top level, as torchtitan has them.
    """
    paths = {name: metadata.key_paths.get(name, (name,)) for name in metadata.tensors}
    left_out: list[str] = []
    if key is None:
        left_out = [name for name in paths if TRAINING.fullmatch(name)]
        counts = Counter(
            path[0] if len(path) > 1 else ""
            for name, path in paths.items()
            if not TRAINING.fullmatch(name)
        )
        if counts and counts.most_common(1)[0][0] == "":
            left_out += [name for name, path in paths.items() if len(path) > 1]
    omitted = dict.fromkeys(left_out)
    content: dict[str, Any] = {}
    for name, path in paths.items():
        if name in omitted:
            continue
        inner = content
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ValueError(
                    f"{folder / NAME} has both a tensor and a mapping at {step!r:.80}; "
                    "copy or download it again"
                )
        inner[path[-1]] = _stand_in(name, metadata.tensors[name])
    return content, list(omitted)


def _stand_in(name: str, tensor: ShardedTensor) -> StoredTensor:
    """A tensor of the same dtype and shape, whose storage is named by the full name."""
    steps = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    storage = Storage(name, tensor.dtype, math.prod(tensor.shape))
    return StoredTensor(storage, tensor.dtype, 0, tensor.shape, tuple(steps))


def _notes(
    metadata: DistributedMetadata, used: set[str], left_out: list[str]
) -> Iterator[str]:
    """Notes on tensors that are left out, and on values that are not tensors."""
    groups = Counter(_first_key(metadata, name) for name in left_out)
    if groups:
        listed = ", ".join(
            f"{name} ({n} tensor{'s' * (n > 1)})" for name, n in groups.items()
        )
        yield f"left out, as training state: {listed}"
    parents = {metadata.key_paths.get(name, (name,))[:-1] for name in used}
    extra = [
        name
        for name in metadata.others
        if not TRAINING.fullmatch(name)
        and _is_below(metadata.key_paths.get(name, (name,)), parents)
    ]
    if extra:
        more = f" and {len(extra) - SHOWN} more" if len(extra) > SHOWN else ""
        yield f"left out, as they are not tensors: {', '.join(extra[:SHOWN])}{more}"


def _first_key(metadata: DistributedMetadata, name: str) -> str:
    path = metadata.key_paths.get(name, (name,))
    return path[0] if len(path) > 1 else re.split("[./]", name)[0]


def _is_below(path: tuple[str, ...], parents: set[tuple[str, ...]]) -> bool:
    """Whether a value belongs to a state dict; others may be beside it at the top."""
    if len(path) == 1:
        return () in parents
    return any(path[:n] in parents for n in range(1, len(path)))
