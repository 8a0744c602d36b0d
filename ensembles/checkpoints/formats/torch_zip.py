"""Torch's zip format: a pickle for the structure, an entry of bytes for each storage.

The pickle goes through ``torch.load(weights_only=True)`` on the meta device, which
makes no tensor; the bytes are ours to read, where the entries lie.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.checkpoints.formats.checkpoint import Checkpoint, File, Record, Tensor
from ensembles.checkpoints.formats.state_dicts import dtype_of, import_torch

NESTED = ("state_dict", "model_state_dict", "model", "ema", "module")
PREFIXES = ("module.", "_orig_mod.")
# What torch's unpickler raises where a pickle makes no sense.
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
OFFSETS = "_checkpoint_offset"  # where torch.load notes a storage's place in the file


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Layout of a file that ``torch.save`` wrote.

    Parameters
    ----------
    path : Path
    key : str or None, default=None
        Where the state dict lies in what was saved, by keys with dots between them.
        None looks in the usual places.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If it is no such file, holds more than tensors and plain values, keeps a tensor
        in another way than dense and in order, or its state dict is not obvious.
    """
    file = File(path)
    records = _records(file)
    state = _state_dict(_load(path), key, path)
    layout: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    # torch.load does not verify the pickle's checksum.
    used = {at for at, record in records.items() if record.name.endswith("/data.pkl")}
    for name, value in state.items():
        tensor = _tensor(file, name, value, records)
        used.add(getattr(value.untyped_storage(), OFFSETS))
        place = (tensor.offset, tensor.dtype, tensor.shape) if tensor.size else name
        if place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            layout[name] = tensor
    return Checkpoint(
        name=str(path),
        kind="file",
        path=path,
        layout=layout,
        aliases=aliases,
        parts={path.name: list(layout)},
        records=[record for at, record in records.items() if at in used],
    )


def _records(file: File) -> dict[int, Record]:
    """Entries of the zip by the place of their bytes."""
    if file.size < 4 or file.read(0, 4) != b"PK\x03\x04":
        raise ValueError(
            f"{file.path} is not in torch's zip format (it may be the legacy tar or "
            "pickle form, or no checkpoint at all); if you trust it, load it with "
            "torch.load and write it again with torch.save"
        )
    try:
        with zipfile.ZipFile(file.path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file.path} is not a whole zip file: {error}") from None
    records = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(
                f"{file.path}: entry {entry.filename!r} is compressed or encrypted, "
                "as torch.save never writes it; write it again with torch.save"
            )
        head = file.read(entry.header_offset, 30)
        start = entry.header_offset + 30
        start += int.from_bytes(head[26:28], "little")
        start += int.from_bytes(head[28:30], "little")
        if start + entry.file_size > file.size:
            raise ValueError(
                f"{file.path}: entry {entry.filename!r} ends after the file does"
            )
        is_order = entry.filename.endswith("/byteorder")
        if is_order and file.read(start, entry.file_size) != b"little":
            raise ValueError(f"{file.path} was written on a big-endian machine")
        records[start] = Record(file, start, entry.file_size, entry.CRC, entry.filename)
    return records


def _load(path: Path) -> Any:
    torch = import_torch(f"reading {path}")
    try:
        return torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        named = next((line for line in reason if "GLOBAL" in line), reason[0])
        raise ValueError(
            f"{path} holds more than tensors, and loading it could run code "
            f"({named.strip()}); if you trust it, load it with torch.load and save its "
            "state dict alone"
        ) from None
    except BROKEN as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is not a whole torch file: {reason[0]}") from None


def _state_dict(found: Any, key: str | None, path: Path) -> dict[str, Any]:
    if key is not None:
        found = _descend(found, key, path)
    elif not _is_state_dict(found) or any(map(_is_state_dict, found.values())):
        # Tensors may lie beside a state dict: the state of a random generator, a loss.
        found = _obvious(found, path)
    if not _is_state_dict(found):
        raise ValueError(
            f"{path} has no tensors at key {key!r}: found {type(found).__name__}"
        )
    deeper = _deeper(found)
    if deeper is not None:
        raise ValueError(
            f"{path} holds tensors deeper down, at {deeper!r}, which would be left "
            "out; name it with key=NAME"
        )
    tensors = {str(k): v for k, v in found.items() if _is_tensor(v)}
    for prefix in PREFIXES * 2:  # either may hide the other
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): v for name, v in tensors.items()}
    return tensors


def _descend(found: Any, key: str, path: Path) -> Any:
    for step in key.split("."):
        if not isinstance(found, Mapping) or step not in found:
            keys = sorted(map(str, found)) if isinstance(found, Mapping) else []
            raise ValueError(
                f"{path} has no key {key!r}: {step!r} is not among {keys[:20]}"
            )
        found = found[step]
    return found


def _obvious(found: Any, path: Path) -> Any:
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold a state dict, found {type(found).__name__}")
    inside = [name for name, value in found.items() if _is_state_dict(value)]
    usual = [name for name in NESTED if name in inside]
    loose = sum(map(_is_tensor, found.values()))
    for names in (inside, usual):
        # Among many tensors a small state dict is rather the one that is beside.
        if len(names) == 1 and (names == usual or loose < len(found[names[0]])):
            return found[names[0]]
    raise ValueError(
        f"which state dict of {path} is meant is not obvious "
        f"(found: {', '.join(map(str, inside)) or 'none'}); name it with key=NAME"
    )


def _deeper(found: Mapping[Any, Any]) -> str | None:
    """Where a dict in a state dict holds tensors, at any depth."""
    left = [(str(k), v) for k, v in found.items() if isinstance(v, Mapping)]
    seen = set()
    while left:
        name, value = left.pop()
        if _is_state_dict(value):
            return name
        if id(value) not in seen:  # a pickle may hold itself
            seen.add(id(value))
            inner = value.items()
            left += [(f"{name}.{k}", v) for k, v in inner if isinstance(v, Mapping)]
    return None


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(_is_tensor, value.values()))


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "untyped_storage") or hasattr(value, "is_sparse")


def _tensor(file: File, name: str, value: Any, records: dict[int, Record]) -> Tensor:
    where = f"{file.path}: tensor {name!r}"
    if value.is_sparse or value.is_quantized or str(value.layout) != "torch.strided":
        raise ValueError(f"{where} is sparse or quantised; make it dense first")
    if not value.is_contiguous():
        raise ValueError(
            f"{where} is a strided view of its storage; save it with .contiguous()"
        )
    dtype = dtype_of(value, where)
    begin = getattr(value.untyped_storage(), OFFSETS, None)
    if begin not in records:
        raise ValueError(f"{where} has no bytes in the file (a meta tensor?)")
    offset = begin + value.storage_offset() * dtype.itemsize
    tensor = Tensor(np.dtype(dtype), tuple(value.shape), file, offset)
    if offset + tensor.nbytes > begin + records[begin].size:
        raise ValueError(f"{where} needs more bytes than its entry has")
    return tensor
