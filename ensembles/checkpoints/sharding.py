"""Which tensors go into which file of the result, and in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ensembles.checkpoints.comparing import Target
from ensembles.checkpoints.formats.checkpoint import Checkpoint

SINGLE = "model.safetensors"
SINGLES = (SINGLE, "diffusion_pytorch_model.safetensors")  # found without an index
SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")


def divide(
    targets: Sequence[Target], first: Checkpoint, *, shard_size: int | None
) -> dict[str, list[Target]]:
    """Files of a directory and the tensors in each, in the order they are stored.

    Parameters
    ----------
    targets : sequence of Target
    first : Checkpoint
        Whose files are taken as they are, where ``shard_size`` is None.
    shard_size : int or None
        Bytes at most in a file, unless a single tensor has more.

    Returns
    -------
    dict of str to list of Target, by path relative to the directory
    """
    own = {name: part for part, names in first.parts.items() for name in names}
    folders: dict[str, list[Target]] = {}
    for target in targets:
        part = own.get(target.name, SINGLE)
        folder = str(PurePosixPath(part).parent)
        place = folder if shard_size is not None else renamed(part, folder)
        folders.setdefault(place, []).append(target)
    if shard_size is None:
        if first.kind != "directory":
            folders = {SINGLE: list(targets)}
        return {part: in_order(found) for part, found in folders.items()}
    return {
        str(PurePosixPath(folder) / part): in_order(found)
        for folder, all_found in folders.items()
        for part, found in _split(all_found, shard_size).items()
    }


def renamed(part: str, folder: str) -> str:
    """Name that a file of weights has in the result: always a safetensors one."""
    name = PurePosixPath(part).name
    if not name.endswith(".safetensors"):
        stem = PurePosixPath(name).stem.replace("pytorch_model", "model")
        name = f"{stem}.safetensors"
    return str(PurePosixPath(folder) / name)


def prefix_of(part: str) -> str:
    """What the names of a module's tensors begin with outside its own files."""
    folder = str(PurePosixPath(part).parent)
    return "" if folder == "." else f"{folder}/"


def in_order(targets: Sequence[Target]) -> list[Target]:
    """Widest dtype first, so that each tensor is aligned; then by name."""
    return sorted(targets, key=lambda t: (-t.dtype.itemsize, t.name))


def index(
    parts: Mapping[str, Sequence[Target]], recipe: str
) -> dict[str, dict[str, object]]:
    """Contents of the index of each folder that has several files of weights.

    Parameters
    ----------
    parts : mapping of str to sequence of Target
    recipe : str

    Returns
    -------
    dict of str to dict, by path relative to the directory
    """
    folders: dict[str, list[str]] = {}
    for part in parts:
        folders.setdefault(str(PurePosixPath(part).parent), []).append(part)
    found = {}
    for files in folders.values():
        prefix = prefix_of(files[0])
        if len(files) == 1 and files[0].removeprefix(prefix) in SINGLES:
            continue
        stem, shards = SHARD.subn("", files[0])
        stem = stem if shards else f"{prefix}model"
        found[f"{stem}.safetensors.index.json"] = {
            "metadata": {
                "total_size": sum(t.nbytes for file in files for t in parts[file]),
                "ensembles": recipe,
            },
            "weight_map": {
                target.name.removeprefix(prefix): PurePosixPath(file).name
                for file in files
                for target in parts[file]
            },
        }
    return found


def _split(targets: Sequence[Target], shard_size: int) -> dict[str, list[Target]]:
    groups: list[list[Target]] = [[]]
    size = 0
    for target in targets:
        if groups[-1] and size + target.nbytes > shard_size:
            groups.append([])
            size = 0
        groups[-1].append(target)
        size += target.nbytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {
        f"model-{i:05}-of-{len(groups):05}.safetensors": group
        for i, group in enumerate(groups, 1)
    }
