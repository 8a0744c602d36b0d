"""Assign the tensors of the result to weight files, with their order and index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import Checkpoint

SINGLE = "model.safetensors"
# Loaded without an index by transformers, diffusers and PEFT.
SINGLES = (SINGLE, "diffusion_pytorch_model.safetensors", "adapter_model.safetensors")
SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")


def divide(
    targets: Sequence[TensorPlan], first: Checkpoint, *, shard_size: int | None
) -> dict[str, list[TensorPlan]]:
    """Divide the tensors of the result into the weight files of a directory.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the result.
    first : Checkpoint
        First member, which determines the file names.
    shard_size : int or None
        Largest size of a weight file in bytes; a larger tensor gets a file of its own,
        and files that are loaded without an index are not divided. None divides
        tensors into files like the first member.

    Returns
    -------
    dict of str to list of TensorPlan
        Tensors of each file in the order they are stored, by path relative to the
        directory.
    """
    if first.is_distributed:  # its files are those of ranks
        first = replace(first, parts={}, is_directory=False)
    file_by_name = {name: part for part, names in first.parts.items() for name in names}
    file_by_name |= {
        a: file_by_name[name]
        for a, name in first.aliases.items()
        if name in file_by_name
    }
    parts: dict[str, list[TensorPlan]] = {}
    for target in targets:
        part = file_by_name.get(target.name) or _last_part(target.name, first)
        file = part if part in first.extras else safetensors_name(part)
        parts.setdefault(file, []).append(target)
    if shard_size is None:
        if not first.is_directory:
            parts = {SINGLE: list(targets)}
        return {part: in_order(file_targets) for part, file_targets in parts.items()}
    return {
        part: in_order(file_targets)
        for part, file_targets in _cut(parts, first, shard_size).items()
    }


def whole_notes(
    parts: Mapping[str, Sequence[TensorPlan]], first: Checkpoint, shard_size: int | None
) -> Iterator[str]:
    """Notes on weight files that are larger than a shard, and cannot be divided.

    Parameters
    ----------
    parts : mapping of str to sequence of TensorPlan
        Tensors of each weight file, see `divide`.
    first : Checkpoint
        First member.
    shard_size : int or None
        Largest size of a weight file in bytes.

    Yields
    ------
    str
        One sentence each.
    """
    for part in map(safetensors_name, sorted(first.whole_files)):
        size = sum(target.nbytes for target in parts.get(part, ()))
        if shard_size is not None and size > shard_size:
            yield (
                f"{part} has {size} bytes, more than the shard size of {shard_size}: "
                "sentence-transformers loads this module from one file"
            )


def _last_part(name: str, first: Checkpoint) -> str:
    """File for a tensor that the first member does not store: the last of its folder.

    A separate model.safetensors beside the shards would be loaded instead of them.
    """
    prefixes = {part: prefix_of(part, first) for part in first.parts}
    parts = [
        part
        for part, prefix in prefixes.items()
        if part not in first.extras and name.startswith(prefix)
    ]
    return max(parts, key=lambda part: (len(prefixes[part]), part), default=SINGLE)


def _cut(
    parts: Mapping[str, list[TensorPlan]], first: Checkpoint, shard_size: int
) -> dict[str, list[TensorPlan]]:
    """Divide main files into shards of ``shard_size`` bytes; keep other files whole."""
    folders: dict[str, tuple[str, list[TensorPlan]]] = {}
    kept: dict[str, list[TensorPlan]] = {}
    whole = first.extras.keys() | set(map(safetensors_name, first.whole_files))
    for part, targets in parts.items():
        if part in whole:
            kept[part] = targets
            continue
        path = PurePosixPath(part)
        stem, shards = SHARD.subn("", path.name)
        stem = stem if shards or path.name in SINGLES else SINGLE
        stem = stem.removesuffix(".safetensors")
        folders.setdefault(str(path.parent), (stem, []))[1].extend(targets)
    return kept | {
        str(PurePosixPath(folder) / name): file_targets
        for folder, (stem, targets) in folders.items()
        for name, file_targets in _split(targets, stem, shard_size).items()
    }


def safetensors_name(part: str) -> str:
    """Name of a main weight file in the result, with the suffix ``.safetensors``.

    Parameters
    ----------
    part : str
        Name of the file in the first member, such as "pytorch_model.bin".

    Returns
    -------
    str
        Name such as "model.safetensors".
    """
    path = PurePosixPath(part)
    if path.suffix == ".safetensors":
        return part
    # transformers loads model.safetensors, diffusers keeps "pytorch" in the name.
    stem = re.sub("^pytorch_model", "model", path.stem)
    return str(path.with_name(f"{stem}.safetensors"))


def prefix_of(part: str, first: Checkpoint) -> str:
    """Prefix of a file's tensors in a `Plan`, which their names in the file lack.

    Parameters
    ----------
    part : str
        Path of the weight file, relative to the directory.
    first : Checkpoint
        First member, whose ``extras`` have prefixes of their own.

    Returns
    -------
    str
        Folder of the file with a slash, or the prefix in ``extras``; empty for the main
        weight files at the top level.
    """
    if part in first.extras:
        return first.extras[part]
    folder = str(PurePosixPath(part).parent)
    return "" if folder == "." else f"{folder}/"


def in_order(targets: Sequence[TensorPlan]) -> list[TensorPlan]:
    """Sort by item size, largest first, so that tensors are aligned; then by name."""
    return sorted(targets, key=lambda t: (-t.dtype.itemsize, t.name))


def index(
    parts: Mapping[str, Sequence[TensorPlan]], first: Checkpoint, recipe: str
) -> dict[str, dict[str, object]]:
    """Contents of the index files of a directory, for every folder that needs one.

    A folder with a single weight file of a standard name needs no index.

    Parameters
    ----------
    parts : mapping of str to sequence of TensorPlan
        Tensors of each weight file, see `divide`.
    first : Checkpoint
        First member; its ``extras`` are not indexed.
    recipe : str
        Recipe of the result in JSON, stored in the metadata of each index.

    Returns
    -------
    dict of str to dict
        JSON object of each index file, by path relative to the directory.
    """
    folders: dict[str, list[str]] = {}
    for part in sorted(parts.keys() - first.extras.keys()):
        folders.setdefault(str(PurePosixPath(part).parent), []).append(part)
    indices = {}
    for files in folders.values():
        prefix = prefix_of(files[0], first)
        if len(files) == 1 and files[0].removeprefix(prefix) in SINGLES:
            continue
        stem, shards = SHARD.subn("", files[0])
        stem = stem if shards else f"{prefix}model"
        indices[f"{stem}.safetensors.index.json"] = {
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
    return indices


def _split(
    targets: Sequence[TensorPlan], stem: str, shard_size: int
) -> dict[str, list[TensorPlan]]:
    groups: list[list[TensorPlan]] = [[]]
    size = 0
    for target in targets:
        if groups[-1] and size + target.nbytes > shard_size:
            groups.append([])
            size = 0
        groups[-1].append(target)
        size += target.nbytes
    if len(groups) == 1:
        return {f"{stem}.safetensors": groups[0]}
    return {
        f"{stem}-{i:05}-of-{len(groups):05}.safetensors": group
        for i, group in enumerate(groups, 1)
    }


def repeat_tied(
    targets: list[TensorPlan], aliases: Mapping[str, str]
) -> list[TensorPlan]:
    """Repeat tied tensors under each name, as libraries expect in a directory.

    In a single file, the aliases are in the metadata, as in safetensors' save_model.

    Parameters
    ----------
    targets : list of TensorPlan
        Tensors of the result.
    aliases : mapping of str to str
        Additional names for tied tensors: alias to name.

    Returns
    -------
    list of TensorPlan
        The targets, then one for each alias.
    """
    by_name = {target.name: target for target in targets}
    return targets + [
        by_name[name]._replace(name=alias, tied_to=name)
        for alias, name in aliases.items()
    ]
