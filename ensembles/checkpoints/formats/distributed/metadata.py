"""The file ``.metadata`` of a distributed checkpoint: where the chunks of tensors lie.

Source: the classes in torch/distributed/checkpoint/metadata.py and filesystem.py of
PyTorch 1.13 to 2.13, and their subclass ``MCoreMetadata`` of Megatron.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.checkpoints.formats.pytorch_files.objects import Malformed, PickledObject
from ensembles.checkpoints.formats.pytorch_files.tensors import KNOWN, dtype_name
from ensembles.checkpoints.formats.pytorch_files.unpickler import Unpickler
from ensembles.regular_files import read_regular

NAME = ".metadata"
LARGEST = 1 << 30  # bytes
LARGEST_SIZE = 1 << 62
DEEPEST = 64  # keys that lead to a value


class Item(NamedTuple):
    """A chunk of a tensor, and the part of a file that holds it.

    Parameters
    ----------
    start : tuple of int
        Index of the chunk's first element in the tensor.
    shape : tuple of int
        Shape of the chunk.
    file : str
        Name of the file in the folder of the checkpoint.
    begin, end : int
        Part of the file, in bytes.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int


class ShardedTensor(NamedTuple):
    """Dtype, shape and chunks of a tensor of a distributed checkpoint.

    Parameters
    ----------
    dtype : str
        Name of the dtype, without ``torch.``.
    shape : tuple of int
        Shape of the whole tensor.
    items : list of Item
        Chunks that are not empty, each once.
    """

    dtype: str
    shape: tuple[int, ...]
    items: list[Item]


class DistributedMetadata(NamedTuple):
    """Content of a distributed checkpoint.

    Parameters
    ----------
    tensors : dict of str to ShardedTensor
        Tensors by their full name.
    others : list of str
        Full names of the values that are not tensors.
    key_paths : dict of str to tuple of str
        Keys that lead to a value in the nested state dict, by its full name.
    """

    tensors: dict[str, ShardedTensor]
    others: list[str]
    key_paths: dict[str, tuple[str, ...]]


def read_metadata(path: Path, n_bytes: int) -> DistributedMetadata:
    """Read the description of a distributed checkpoint; nothing in it is executed.

    Parameters
    ----------
    path : Path
        Path of the file ``.metadata``.
    n_bytes : int
        Size of the files that it describes; objects may take as much memory.

    Returns
    -------
    DistributedMetadata

    Raises
    ------
    ValueError
        If the file is damaged, or has objects of an unknown class where tensors are
        described.
    """
    data = read_regular(path, largest=LARGEST)
    try:
        content = Unpickler(data, KNOWN, memory=len(data) + n_bytes).load()
        return _metadata(content)
    except Malformed as error:
        raise ValueError(
            f"{path} does not describe a distributed checkpoint: {error}; copy or "
            "download it again"
        ) from None


def _metadata(content: Any) -> DistributedMetadata:
    attributes = _attributes(content, "Metadata", "MCoreMetadata")
    described = _dict(attributes.get("state_dict_metadata"), "state_dict_metadata")
    stored = _dict(attributes.get("storage_data"), "storage_data")
    places = dict(_places(stored))
    tensors: dict[str, ShardedTensor] = {}
    others: list[str] = []
    for name, value in described.items():
        if not isinstance(name, str):
            raise Malformed(f"a tensor must be named by a string, found {name!r:.40}")
        if isinstance(value, PickledObject) and value.type.name == BYTES:
            others.append(name)
        else:
            tensors[name] = _tensor(name, value, places)
    planned = attributes.get("planner_data")
    return DistributedMetadata(
        tensors, others, dict(_key_paths(planned)) if isinstance(planned, dict) else {}
    )


BYTES = "BytesStorageMetadata"


def _attributes(value: Any, *names: str) -> dict[str, Any]:
    """Attributes of an object, whose class must have one of the names."""
    found = f"a value of type {type(value).__name__}"
    if isinstance(value, PickledObject):
        if value.type.name in names and isinstance(value.state, dict):
            return value.state
        found = f"an object of {value.type}"
    raise Malformed(f"{names[0]} is expected, found {found:.200}")


def _dict(value: Any, name: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{name} must be a dict, found {type(value).__name__}")
    return value


def _places(stored: dict[Any, Any]) -> Iterator[tuple[Any, tuple[str, int, int]]]:
    """Yield the full name and start of each chunk, with its file, begin and end."""
    for index, value in stored.items():
        name = _attributes(index, "MetadataIndex")
        place = _attributes(value, "_StorageInfo")
        full_name, file = name.get("fqn"), place.get("relative_path")
        begin, length = place.get("offset"), place.get("length")
        if not isinstance(full_name, str) or not isinstance(file, str):
            raise Malformed("an item must have a name and a file")
        if file in ("", "..") or "/" in file or "\0" in file:
            raise Malformed(f"item {full_name!r} is outside of its folder: {file!r}")
        if place.get("transform_descriptors"):
            raise Malformed(
                f"item {full_name!r} is compressed or encrypted "
                f"({place['transform_descriptors']!r:.80}), which is not supported"
            )
        (start_byte, size) = _sizes((begin, length), full_name)
        start = name.get("offset")
        at = () if start is None else _sizes(start, full_name)
        yield (full_name, at), (file, start_byte, start_byte + size)


def _tensor(name: str, value: Any, places: dict[Any, Any]) -> ShardedTensor:
    attributes = _attributes(value, "TensorStorageMetadata")
    properties = attributes.get("properties")
    state = properties.state if isinstance(properties, PickledObject) else None
    if isinstance(state, dict):
        state = (state.get("dtype"),)
    if not isinstance(state, tuple) or not state:
        raise Malformed(f"tensor {name!r} must have properties with a dtype")
    try:
        dtype = dtype_name(state[0])
    except ValueError as error:
        raise Malformed(f"tensor {name!r}: {error}") from None
    chunks = attributes.get("chunks")
    if not isinstance(chunks, list):
        raise Malformed(f"tensor {name!r} must have a list of chunks")
    items: dict[Any, Item] = {}
    for chunk in chunks:
        box = _attributes(chunk, "ChunkStorageMetadata")
        start = _sizes(box.get("offsets"), name)
        shape = _sizes(box.get("sizes"), name)
        if 0 in shape or (start, shape) in items:  # an empty shard, or a replicated one
            continue
        place = places.get((name, start))
        if place is None and not any(start):  # an item may have no start
            place = places.get((name, ()))
        if place is None:
            raise Malformed(f"the chunk of tensor {name!r} at {start} has no item")
        items[start, shape] = Item(start, shape, *place)
    return ShardedTensor(dtype, _sizes(attributes.get("size"), name), [*items.values()])


def _sizes(value: Any, name: str) -> tuple[int, ...]:
    """Check that a value is a tuple or list of non-negative integers."""
    sizes = tuple(value) if isinstance(value, tuple | list) else (None,)
    for size in sizes:
        if type(size) is not int or not 0 <= size <= LARGEST_SIZE:
            raise Malformed(f"{name!r} has the size or position {value!r:.80}")
    return sizes


def _key_paths(planned: dict[Any, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, key_path in planned.items():
        if isinstance(name, str) and isinstance(key_path, tuple):
            if not 0 < len(key_path) <= DEEPEST:
                raise Malformed(f"{name!r:.80} has {len(key_path)} keys")
            yield name, tuple(map(str, key_path))
