"""Checkpoints of PyTorch, as written by ``torch.save``; torch is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    FileSource,
    Tensor,
)
from ensembles.checkpoints.formats.output import ArraySink, OutputFile, Sink
from ensembles.checkpoints.formats.pytorch_files.nesting import is_tensor, state_dict_in
from ensembles.checkpoints.formats.pytorch_files.reading import (
    TorchFile,
    read_file,
    stored_at,
)
from ensembles.checkpoints.formats.pytorch_files.strided import StridedSource
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor
from ensembles.checkpoints.formats.state_dict import (
    as_torch,
    dtype_named,
    import_torch,
    with_aliases,
)
from ensembles.checkpoints.formats.table import FORMATS, FileHead
from ensembles.registry import register


def _matches(head: FileHead) -> bool:
    if b"\x80\x01" < head.start[:2] <= b"\x80\x05":  # a pickle; its error has advice
        return True
    names = head.entries
    is_torchscript = any(name.endswith("/constants.pkl") for name in names)
    return any(name.endswith("data.pkl") for name in names) and not is_torchscript


def _write(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    torch = import_torch(f"writing {file.name}")
    arrays = {n: np.empty(shape, dtype) for n, (dtype, shape) in file.layout.items()}
    yield {name: ArraySink(array) for name, array in arrays.items()}
    tensors: dict[str, Any] = {name: as_torch(array) for name, array in arrays.items()}
    content: Any = with_aliases(tensors, file.aliases, file.order)
    if file.template is not None:
        content = _with_tensors(file.template, content)
    try:
        # With a path, torch.save would store the name of the temporary file.
        with file.path.open("wb") as opened:
            torch.save(content, opened)
    except RuntimeError as error:
        raise OSError(f"{file.name} could not be written: {error}") from None


def _with_tensors(template: Path, tensors: Mapping[str, Any]) -> Any:
    """Content of a file with other tensors; tensors without a new value are removed."""
    torch = import_torch(f"reading {template}")
    content = torch.load(template, map_location="cpu", weights_only=True)
    chosen = state_dict_in(read_file(FileSource(template)).content, None, template)
    state = content if chosen.key is None else content[chosen.key]
    stored = [name for name, value in chosen.state.items() if is_tensor(value)]
    for stored_name, name in zip(stored, chosen.tensors, strict=True):
        if name in tensors:
            state[stored_name] = tensors[name]
        else:
            del state[stored_name]
    return content


@register(
    FORMATS,
    suffixes=(".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar"),
    matches=_matches,
    write=_write,
    takes_key=True,
    streams=False,
    # The last two are those of PEFT and AdapterHub.
    main_files=(
        "pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "model.bin",
        "adapter_model.bin",
        "pytorch_adapter.bin",
    ),
)
def pytorch(path: Path, key: str | None = None) -> Checkpoint:
    """Layout of a file written by ``torch.save``.

    Parameters
    ----------
    path : Path
        Path of the PyTorch checkpoint, with any suffix.
    key : str or None, default=None
        Key of the state dict, with dots between nested keys; None finds it, see
        `state_dict_in`.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If the file is damaged or was not written by ``torch.save``, has a tensor that
        is sparse, quantized or a shard, or several candidates for the state dict.
    """
    file = FileSource(path)
    stored = read_file(file)
    chosen = state_dict_in(stored.content, key, path)
    layout: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    used: dict[str, ChecksumRecord] = {}
    for name, value in chosen.tensors.items():
        tensor = tensor_in(file, name, value, stored)
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
        records=[*used.values()] if stored.has_checksums else [],
        state_dict=chosen.key,
        notes=chosen.notes,
    )


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
