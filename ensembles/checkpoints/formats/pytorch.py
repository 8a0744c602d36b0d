"""Checkpoints of PyTorch, as written by ``torch.save``; torch is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    FileContents,
    FileSource,
    Keys,
    Tensor,
    TensorInfo,
    UnsupportedSource,
)
from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.formats.pytorch_files.nesting import (
    contents_beside,
    state_dict_in,
    tensors_by_key,
    tensors_in,
)
from ensembles.checkpoints.formats.pytorch_files.objects import (
    Malformed,
    PickledObject,
)
from ensembles.checkpoints.formats.pytorch_files.reading import (
    ITEMSIZES,
    TorchFile,
    read_file,
    stored_at,
)
from ensembles.checkpoints.formats.pytorch_files.strided import StridedSource
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor
from ensembles.checkpoints.formats.pytorch_files.writing import write
from ensembles.checkpoints.formats.state_dict import dtype_named
from ensembles.checkpoints.formats.table import FORMATS, FileHead
from ensembles.checkpoints.formats.zip_files.comments import metadata_in
from ensembles.checkpoints.formats.zip_files.reading import read_comment
from ensembles.checkpoints.formats.zip_files.records import LOCAL
from ensembles.registry import register


def _matches(head: FileHead) -> bool:
    if b"\x80\x01" < head.start[:2] <= b"\x80\x05":  # a pickle; its error has advice
        return True
    names = head.entries
    is_torchscript = any(name.endswith("/constants.pkl") for name in names)
    return any(name.endswith("data.pkl") for name in names) and not is_torchscript


def _contents(path: Path) -> FileContents:
    """All state dicts of a file, and its other values."""
    stored = read_file(FileSource(path))
    with _named_in_errors(path):
        by_key = tensors_by_key(stored.content)
        items = contents(stored.content).items()
    state_dicts = {
        key: [_listed(str(name), tensor) for name, tensor in tensors.items()]
        for key, tensors in by_key.items()
    }
    texts = {
        str(key): _short(value) or _summary(value)
        for key, value in items
        if str(key) not in by_key
    }
    values = {key: text for key, text in texts.items() if text}
    return FileContents(state_dicts, values, stored.metadata)


def _metadata(path: Path) -> dict[str, str] | None:
    """Metadata in the comment of a zip file; None if that is not free for them."""
    file = FileSource(path)
    is_zip = file.size >= len(LOCAL) and file.read(0, len(LOCAL)) == LOCAL
    comment = read_comment(file) if is_zip else None
    metadata = None if comment is None else metadata_in(comment)
    return None if comment and not metadata else metadata


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Name the file in errors about objects in its pickle."""
    try:
        yield
    except Malformed as error:
        raise ValueError(f"{path}: {error}") from None


def _listed(name: str, tensor: StoredTensor) -> TensorInfo:
    n_bytes = tensor.size * ITEMSIZES.get(tensor.dtype, 1)
    return TensorInfo(name, tensor.dtype, tensor.shape, n_bytes)


def _summary(value: Any) -> str:
    """Tensors in a container, such as the state of an optimizer; empty for others."""
    tensors = [] if isinstance(value, StoredTensor) else list(tensors_in(value))
    n_bytes = sum(_listed("", tensor).nbytes for tensor in tensors)
    plural = "s" * (len(tensors) != 1)
    return f"{len(tensors)} tensor{plural}, {n_bytes:,} bytes" if tensors else ""


def _short(value: Any) -> str:
    """Text of a plain value or an object; empty for containers and tensors."""
    if isinstance(value, PickledObject):
        return str(value.type)
    plain = isinstance(value, bool | int | float | str | None)
    return f"{value!r:.80}" if plain else ""


@register(
    FORMATS,
    suffixes=(".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar"),
    matches=_matches,
    write=write,
    takes_key=True,
    contents=_contents,
    keeps_metadata=True,
    metadata=_metadata,
    keeps_contents=True,
    # The last two are those of PEFT and AdapterHub.
    main_files=(
        "pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "model.bin",
        "adapter_model.bin",
        "pytorch_adapter.bin",
    ),
)
def pytorch(path: Path, key: Keys = None) -> Checkpoint:
    """Layout of a file written by ``torch.save``.

    Parameters
    ----------
    path : Path
        Path of the PyTorch checkpoint, with any suffix.
    key : str, sequence of str or None, default=None
        Key of the state dict, with dots between nested keys, or several keys of the
        parts of one model; None finds it, see `state_dict_in`.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If the file is damaged or was not written by ``torch.save``, has a tensor that
        is sparse, quantized or a shard, or several candidates for the state dict.
    """
    return read_checkpoint(FileSource(path), key)


def read_checkpoint(
    file: FileSource, key: Keys, begin: int = 0, end: int | None = None
) -> Checkpoint:
    """Layout of a part of a file that ``torch.save`` has written.

    Parameters
    ----------
    file : FileSource
        File to read.
    key : str, sequence of str or None
        Key of the state dict, as in `pytorch`.
    begin, end : int, default=0 and None
        Position of the part in the file; None ends it with the file.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        As in `pytorch`.
    """
    path = file.path
    stored = read_file(file, begin, end)
    with _named_in_errors(path):
        chosen = state_dict_in(stored.content, key, path)
    layout: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    used: dict[str, ChecksumRecord] = {}
    for name, value in chosen.tensors.items():
        problem = _problem(f"{path}: tensor {name!r}", value)
        if problem:
            source = UnsupportedSource(problem)
            layout[name] = Tensor(np.dtype("V1"), value.shape, source, 0)
            continue
        tensor = tensor_in(file, name, value, stored)
        if value.storage is not None:
            used[value.storage.key] = stored.storages[value.storage.key]
        location = (value, name if not tensor.size else "")
        if location in seen:
            aliases[name] = seen[location]
        else:
            seen[location] = name
            layout[name] = tensor
    return Checkpoint(
        name=str(path),
        format="pytorch",
        path=path,
        layout=layout,
        aliases=aliases,
        order=[*chosen.tensors],
        metadata=stored.metadata,
        records=[*used.values()] if stored.has_checksums else [],
        keys=chosen.keys,
        beside={path.name: contents_beside(stored.content, chosen)},
        notes=chosen.notes,
    )


def _problem(where: str, value: StoredTensor) -> str:
    """Reason why a tensor cannot be averaged, whatever the file; empty if it can."""
    if value.storage is None:
        return f"{where} {value.problem}"
    try:
        dtype_named(value.dtype, where)
    except ValueError as error:
        return str(error)
    return ""


def tensor_in(
    file: FileSource, name: str, value: StoredTensor, stored: TorchFile
) -> Tensor:
    """Dtype, shape and location of a tensor.

    Parameters
    ----------
    file : FileSource
        File with the tensor.
    name : str
        Name of the tensor, for messages.
    value : StoredTensor
        The tensor in the content of the file.
    stored : TorchFile
        Content of the file.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If the tensor cannot be read or averaged, or is larger than its storage.
    """
    where = f"{file.path}: tensor {name!r}"
    if value.storage is None:
        raise ValueError(f"{where} {value.problem}")
    dtype = dtype_named(value.dtype, where)
    start = stored_at(value, dtype.itemsize, stored, where)
    if value.is_contiguous:
        return Tensor(dtype, value.shape, file, start)
    if value.size * dtype.itemsize > file.size:
        raise ValueError(
            f"{where} is an expanded view, larger than the file; save it with "
            ".contiguous()"
        )
    source = StridedSource(file, start, value.shape, value.strides, dtype.itemsize)
    return Tensor(dtype, value.shape, source, 0)
