"""Models saved in one PyTorch file a rank, with the shards of each tensor (DTensor).

The name ``model_world_size_8_rank_3.pt`` is that of verl and of older FSDP trainers. A
DTensor has the shape of the whole tensor, the part of its rank, the placements of the
parts on each axis of a mesh of ranks, and the position of its rank in the mesh.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.checkpoints.directories.distributed import sharded
from ensembles.checkpoints.directories.weight_files import main_weight_files
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    FileSource,
    Keys,
    Tensor,
)
from ensembles.checkpoints.formats.distributed.chunks import (
    Chunk,
    ChunkedSource,
    check_chunks,
)
from ensembles.checkpoints.formats.pytorch import tensor_in
from ensembles.checkpoints.formats.pytorch_files.nesting import state_dict_in
from ensembles.checkpoints.formats.pytorch_files.objects import PickledObject
from ensembles.checkpoints.formats.pytorch_files.reading import TorchFile, read_file
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor

RANK = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
ADVICE = "join the ranks with the merger of the trainer first"


class _RankFile(NamedTuple):
    """File of a rank, its content, its tensors and notes on them."""

    file: FileSource
    stored: TorchFile
    tensors: Mapping[str, StoredTensor]
    keys: tuple[str, ...]
    notes: list[str]


def has_rank_files(path: Path) -> bool:
    """Whether a directory has files of ranks, and no usual weight files.

    Parameters
    ----------
    path : Path
        Path of the directory.

    Returns
    -------
    bool
    """
    is_sharded = any(RANK.fullmatch(entry.name) for entry in path.iterdir())
    return is_sharded and not main_weight_files(path)[0]


def _rank_files(path: Path) -> list[Path]:
    """Files of all ranks, in their order."""
    names = [entry.name for entry in path.iterdir() if RANK.fullmatch(entry.name)]
    numbers = {tuple(map(int, re.findall(r"\d+", name))): name for name in names}
    sizes = sorted({size for size, _ in numbers})
    if len(sizes) > 1:
        raise ValueError(
            f"{path} has models of {' and '.join(map(str, sizes))} ranks; move one of "
            "them into another folder"
        )
    n_ranks = sizes[0]
    ranks = range(max(n_ranks, 1))
    missing = next((rank for rank in ranks if (n_ranks, rank) not in numbers), None)
    if missing is not None or not n_ranks:
        raise ValueError(
            f"{path} must have the files of all {n_ranks} ranks: that of rank "
            f"{missing} is missing; copy it into the folder"
        )
    return [path / numbers[n_ranks, rank] for rank in range(n_ranks)]


def read(path: Path, key: Keys = None) -> Checkpoint:
    """Layout of a model that is saved in one file a rank.

    Parameters
    ----------
    path : Path
        Path of the directory with the files of all ranks.
    key : str, sequence of str or None, default=None
        Key of the state dict in each file, with dots between nested keys, or several
        keys; None finds it.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If a rank is missing, a file is damaged, or the parts of a tensor do not cover
        it exactly once.
    """
    ranks = [_open(file, key) for file in _rank_files(path)]
    layout: dict[str, Tensor] = {}
    notes = list(ranks[0].notes)
    records: dict[tuple[str, int], ChecksumRecord] = {}
    for name in dict.fromkeys(name for rank in ranks for name in rank.tensors):
        holders = [rank for rank in ranks if name in rank.tensors]
        layout[name] = _tensor(path, name, holders)
        is_sharded = holders[0].tensors[name].shard is not None
        if not is_sharded and _differ(holders, name):
            notes.append(
                f"{name} is not sharded and differs between the ranks; that of rank 0 "
                "is read, as torch does"
            )
        for rank in holders if is_sharded else holders[:1]:
            for record in _records(rank, name):
                records[record.file.path.name, record.offset] = record
    return sharded(
        path,
        layout,
        {rank.file.path.name: list(rank.tensors) for rank in ranks},
        folders=[""],
        keys=ranks[0].keys,
        notes=notes,
        records=[*records.values()],
    )


def _open(path: Path, key: Keys) -> _RankFile:
    file = FileSource(path)
    stored = read_file(file)
    chosen = state_dict_in(stored.content, key, path)
    return _RankFile(file, stored, chosen.tensors, chosen.keys, chosen.notes)


def _records(rank: _RankFile, name: str) -> list[ChecksumRecord]:
    value = rank.tensors[name]
    part = value if value.shard is None else value.shard[0]
    if part.storage is None or not rank.stored.has_checksums:
        return []
    return [rank.stored.storages[part.storage.key]]


def _differ(holders: Sequence[_RankFile], name: str) -> bool:
    """Whether copies of a tensor have different checksums, where these are known."""
    crcs = set()
    for rank in holders:
        value = rank.tensors[name]
        for record in _records(rank, name):
            if value.storage is not None and value.size == value.storage.size:
                crcs.add((record.size, record.crc))
    return len(crcs) > 1


def _tensor(path: Path, name: str, holders: Sequence[_RankFile]) -> Tensor:
    """The tensor in all files that have it: its parts, or the copy of the first."""
    where = f"{path}: tensor {name!r}"
    values = [rank.tensors[name] for rank in holders]
    first = values[0]
    if any((v.dtype, v.shape) != (first.dtype, first.shape) for v in values):
        raise ValueError(
            f"{where} has different dtypes or shapes in the files of ranks; copy the "
            "files of one step into the folder"
        )
    if all(value.shard is None for value in values):
        return tensor_in(holders[0].file, name, first, holders[0].stored)
    shards = [value.shard for value in values if value.shard is not None]
    if len(shards) < len(values):
        raise ValueError(f"{where} is sharded in some files only; {ADVICE}")
    positions = [_position(spec, where) for _, spec in shards]
    mesh_shape = [max(along) + 1 for along in zip(*positions, strict=True)]
    chunks: dict[Any, Chunk] = {}
    dtype = None
    for rank, (part, spec), position in zip(holders, shards, positions, strict=True):
        start, shape = box(first.shape, mesh_shape, position, _placements(spec), where)
        if part.shape != shape:
            raise ValueError(
                f"{where} has a part of shape {part.shape} in {rank.file.path.name}, "
                f"which must have shape {shape} by its placements; {ADVICE}"
            )
        tensor = tensor_in(rank.file, name, part, rank.stored)
        dtype = tensor.dtype
        if tensor.size:
            chunk = Chunk(start, shape, tensor.source, tensor.offset)
            chunks.setdefault((start, shape), chunk)  # the others are copies
    problem = check_chunks(first.shape, [*chunks])
    if problem or dtype is None:
        raise ValueError(f"{where} is not complete or damaged: {problem}")
    source = ChunkedSource(first.shape, dtype.itemsize, [*chunks.values()])
    return Tensor(dtype, first.shape, source, 0)


def _position(spec: PickledObject, where: str) -> tuple[int, ...]:
    """Position of a rank in the mesh, a number for each axis of the mesh."""
    mesh = spec.attributes.get("mesh")
    position = None
    if isinstance(mesh, PickledObject):
        position = mesh.attributes.get("_coordinate_on_dim")
    n_axes = len(_placements(spec))
    if not isinstance(position, list | tuple) or len(position) != n_axes:
        raise ValueError(f"{where} does not have its position in the mesh; {ADVICE}")
    if not all(type(index) is int and 0 <= index < 1 << 31 for index in position):
        raise ValueError(f"{where} has the position {position!r:.80}; {ADVICE}")
    return tuple(position)


def _placements(spec: PickledObject) -> Sequence[Any]:
    placements = spec.attributes.get("placements")
    return placements if isinstance(placements, list | tuple) else ()


def box(
    shape: tuple[int, ...],
    mesh_shape: Sequence[int],
    position: Sequence[int],
    placements: Sequence[Any],
    where: str,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Part of a tensor that a rank has, by the placements on the axes of its mesh.

    Each axis of the mesh divides the parts of those before it. FSDP on the first axis
    divides the parts of tensor parallelism on a later one: ``_StridedShard`` says so.

    Parameters
    ----------
    shape : tuple of int
        Shape of the tensor.
    mesh_shape : sequence of int
        Number of ranks along each axis of the mesh.
    position : sequence of int
        Position of the rank in the mesh.
    placements : sequence of PickledObject
        Placement on each axis of the mesh.
    where : str
        Name of the checkpoint and the tensor, for messages.

    Returns
    -------
    start : tuple of int
        Index of the first element of the part.
    shape : tuple of int
        Shape of the part.

    Raises
    ------
    ValueError
        If a placement is neither a shard nor a copy.
    """
    start, lengths, n_divided = [0] * len(shape), list(shape), [1] * len(shape)
    axes = [*zip(mesh_shape, position, placements, strict=True)]
    plain = [axis for axis in axes if not _is_strided(axis[2])]
    strided = [axis for axis in axes if _is_strided(axis[2])]
    for n_parts, index, placement in [*plain, *reversed(strided)]:
        kind = placement.type.name if isinstance(placement, PickledObject) else ""
        if kind == "Replicate":
            continue
        along = placement.attributes.get("dim") if "Shard" in kind else None
        if type(along) is not int or not 0 <= along < len(shape):
            raise ValueError(
                f"{where} has the placement {kind or placement!r}; {ADVICE}"
            )
        factor = placement.attributes.get("split_factor", n_divided[along])
        if factor != n_divided[along]:
            raise ValueError(
                f"{where} has the placement {kind!r} with the split factor {factor!r}, "
                f"and other axes divide it by {n_divided[along]}; {ADVICE}"
            )
        size = -(-lengths[along] // n_parts)
        begin = min(index * size, lengths[along])
        start[along] += begin
        lengths[along] = min(size, lengths[along] - begin)
        n_divided[along] *= n_parts
    return tuple(start), tuple(lengths)


def _is_strided(placement: Any) -> bool:
    return (
        isinstance(placement, PickledObject) and placement.type.name == "_StridedShard"
    )
