"""Layout of PyTorch checkpoints in the zip format of ``torch.save``.

The archive has a pickle for the structure and an uncompressed entry for each storage.
``torch.load(weights_only=True)`` on the meta device reads the pickle without allocating
tensors; the bytes are read later, at the offsets of the entries.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    FileSource,
    Tensor,
)
from ensembles.checkpoints.formats.nesting import contents_beside, state_dict_in
from ensembles.checkpoints.formats.pytorch_files.writing import write
from ensembles.checkpoints.formats.state_dict import dtype_of, import_torch
from ensembles.checkpoints.formats.table import FORMATS, FileHead
from ensembles.registry import register

# Exceptions of torch's unpickler for malformed pickles.
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
OFFSETS = "_checkpoint_offset"  # attribute of a storage: its offset in the file


def _matches(head: FileHead) -> bool:
    if b"\x80\x01" < head.start[:2] <= b"\x80\x05":  # a pickle; its error has advice
        return True
    names = head.entries
    is_torchscript = any(name.endswith("/constants.pkl") for name in names)
    return any(name.endswith("data.pkl") for name in names) and not is_torchscript


@register(
    FORMATS,
    suffixes=(".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar"),
    matches=_matches,
    write=write,
    takes_key=True,
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
    ImportError
        If torch is not installed.
    ValueError
        If the file is damaged or not in the zip format of ``torch.save``, contains
        objects other than tensors and plain values, has a tensor that is not dense and
        contiguous, or several candidates for the state dict.
    """
    file = FileSource(path)
    records = _records(file)
    content = _load(path)
    chosen = state_dict_in(content, key, path)
    layout: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    # torch.load does not verify the pickle's checksum.
    used = {at for at, record in records.items() if record.name.endswith("/data.pkl")}
    for name, value in chosen.tensors.items():
        tensor = _tensor(file, name, value, records)
        used.add(_storage_of(value))
        location = (tensor.offset, tensor.dtype, tensor.shape) if tensor.size else name
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
        records=[record for at, record in records.items() if at in used],
        state_dict=chosen.key,
        notes=chosen.notes,
        beside={path.name: contents_beside(content, chosen, _storage_of)},
    )


def _records(file: FileSource) -> dict[int, ChecksumRecord]:
    """Zip entries by the file offset of their data."""
    if file.size < 4 or file.read(0, 4) != b"PK\x03\x04":
        raise ValueError(
            f"{file.path} is not in the zip format of torch.save (it may have the "
            "legacy tar or pickle format, or not be a checkpoint); if you trust it, "
            "load it with torch.load and save it again with torch.save"
        )
    try:
        with zipfile.ZipFile(file.path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file.path} is not a complete zip file: {error}") from None
    records = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(
                f"{file.path}: entry {entry.filename!r} is compressed or encrypted, "
                "which torch.save never does; save it again with torch.save"
            )
        head = file.read(entry.header_offset, 30)
        start = entry.header_offset + 30
        start += int.from_bytes(head[26:28], "little")
        start += int.from_bytes(head[28:30], "little")
        if start + entry.file_size > file.size:
            raise ValueError(
                f"{file.path}: entry {entry.filename!r} ends beyond the end of the "
                "file; copy or download the file again"
            )
        is_order = entry.filename.endswith("/byteorder")
        if is_order and file.read(start, entry.file_size) != b"little":
            raise ValueError(
                f"{file.path} is big-endian, which is not supported; save it again on "
                "a little-endian machine"
            )
        records[start] = ChecksumRecord(
            file, start, entry.file_size, entry.CRC, entry.filename
        )
    return records


def _load(path: Path) -> Any:
    torch = import_torch(f"reading {path}")
    try:
        # torch.load selects the format by this suffix if it gets a path.
        has_wrong_suffix = path.suffix == ".safetensors"
        with path.open("rb") if has_wrong_suffix else nullcontext(path) as file:
            return torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_unsafe(path, str(error).strip())) from None
    except BROKEN as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if "quantized" in reason[0]:
            raise ValueError(
                f"{path} contains quantized tensors; save the state dict of the float "
                "model instead"
            ) from None
        raise ValueError(
            f"{path} is not a complete PyTorch file: {reason[0]}"
        ) from None


def _unsafe(path: Path, message: str) -> str:
    """Error message for a rejected pickle; names the object that it contains."""
    named = GLOBAL.search(message)
    found = named[1] if named else message.splitlines()[0]
    if "DTensor" in found or "ShardedTensor" in found:
        return (
            f"{path} contains shards of tensors ({found}); join them first: save a "
            "full state dict, or use the conversion script of the training library"
        )
    return (
        f"{path} contains objects other than tensors, and loading it could run code "
        f"({found}); if you trust it, load it with torch.load(path, "
        "weights_only=False) and save only its state dict"
    )


def _storage_of(value: Any) -> Any:
    """Offset of a tensor's storage in the file; None for sparse or without data."""
    is_dense = str(value.layout) == "torch.strided"
    return getattr(value.untyped_storage(), OFFSETS, None) if is_dense else None


def _tensor(
    file: FileSource, name: str, value: Any, records: dict[int, ChecksumRecord]
) -> Tensor:
    where = f"{file.path}: tensor {name!r}"
    if str(value.layout) != "torch.strided":
        raise ValueError(f"{where} is sparse or quantized; convert it to dense first")
    if not value.is_contiguous():
        raise ValueError(
            f"{where} is a strided view of its storage; save it with .contiguous()"
        )
    dtype = dtype_of(value, where)
    begin = _storage_of(value)
    if begin not in records:
        raise ValueError(f"{where} has no data in the file; is it a meta tensor?")
    offset = begin + value.storage_offset() * dtype.itemsize
    tensor = Tensor(np.dtype(dtype), tuple(value.shape), file, offset)
    if offset + tensor.nbytes > begin + records[begin].size:
        raise ValueError(f"{where} is larger than its entry in the file")
    return tensor
