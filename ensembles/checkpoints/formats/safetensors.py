"""Safetensors headers: a JSON object with dtype, shape and offsets of each tensor.

Source: https://huggingface.co/docs/safetensors, section Format. The header is parsed
here and not by the safetensors library, because it has to provide offsets for files of
any size without memory mapping.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ensembles.atomic_io import pwrite_all
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    FileContents,
    FileSource,
    Tensor,
    TensorInfo,
    UnsupportedSource,
)
from ensembles.checkpoints.formats.output import Layout, OutputFile, Sink, file_sinks
from ensembles.checkpoints.formats.table import FORMATS, FileHead
from ensembles.registry import register

LARGEST_HEADER = 25_000_000
MOST_TENSORS = 500_000
MOST_ELEMENTS = 1 << 59  # of a NumPy array with elements of 8 bytes, and more
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "I64": np.int64,
        "U64": np.uint64,
        "I32": np.int32,
        "U32": np.uint32,
        "I16": np.int16,
        "U16": np.uint16,
        "I8": np.int8,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
QUANTIZED = "it is quantized; convert the checkpoint to bfloat16 first"
CONVERSIONS = {
    "C64": "store it as real numbers, as torch.view_as_real does",
    **dict.fromkeys(("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"), QUANTIZED),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def _matches(head: FileHead) -> bool:
    n_header = int.from_bytes(head.start[:8], "little")
    return head.start[8:9] == b"{" and 2 <= n_header <= head.size - 8


def _write(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    """Write the header with zeros as digests first, and again when they are known."""
    with file.path.open("wb", buffering=0) as opened:
        fd = opened.fileno()
        placeholder = _header_of(file)
        pwrite_all(fd, placeholder, 0)
        yield file_sinks(fd, file.layout, len(placeholder))
        pwrite_all(fd, _header_of(file), 0)


def _rewrite_metadata(file: OutputFile) -> None:
    with file.path.open("r+b", buffering=0) as opened:
        pwrite_all(opened.fileno(), _header_of(file), 0)


def _header_of(file: OutputFile) -> memoryview:
    # transformers rejects files without a format; "pt" is correct for any tensors.
    metadata = {**file.aliases, "format": "pt", **file.metadata}
    return memoryview(encode_header(file.layout, metadata))


def _contents(path: Path) -> FileContents:
    """Contents of a header, also with dtypes that cannot be averaged."""
    file = FileSource(path)
    header, _ = _header(file)
    metadata = header.pop("__metadata__", {})
    tensors = [_listed(file, name, entry) for name, entry in header.items()]
    metadata = metadata if isinstance(metadata, dict) else {}
    texts = {str(name): str(value) for name, value in metadata.items()}
    return FileContents({"": tensors}, metadata=texts)


def _listed(file: FileSource, name: str, entry: Any) -> TensorInfo:
    """Tensor of any dtype, whose size is not checked in detail."""
    try:
        kind, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        kind, shape, begin, end = "", (-1,), 0, 0
    numbers = [*shape, begin, end]
    # At most 8 elements a byte, so that a hostile shape does not overflow later.
    if (
        not all(isinstance(n, int) and n >= 0 for n in numbers)
        or not begin <= end <= file.size
        or math.prod(shape) > 8 * file.size
    ):
        raise _broken(
            file.path, f"tensor {name!r} has no valid dtype, shape or data_offsets"
        )
    dtype = str(DTYPES[kind]) if kind in NAMES.values() else str(kind)
    return TensorInfo(name, dtype, shape, end - begin)


@register(
    FORMATS,
    suffixes=(".safetensors", ".sft"),
    matches=_matches,
    write=_write,
    rewrite_metadata=_rewrite_metadata,
    keeps_metadata=True,
    contents=_contents,
    # The last two are those of PEFT and AdapterHub.
    main_files=(
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "pytorch_model.safetensors",
        "adapter_model.safetensors",
        "adapter.safetensors",
    ),
)
def safetensors(path: Path) -> Checkpoint:
    """Layout of a safetensors file.

    Parameters
    ----------
    path : Path
        Path of the safetensors file, with any suffix.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the path is not a regular file, the header is malformed or does not match
        the size of the file, or a dtype is not supported.
    """
    file = FileSource(path)
    header, start = _header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _broken(path, "__metadata__ must be an object")
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise _broken(
                path, f"__metadata__[{name!r}] must be a string, found {value!r}"
            )
    layout = {name: _tensor(file, name, entry, start) for name, entry in header.items()}
    _check_gaps(file, layout, start)
    # safetensors.torch.save_model stores tensors with shared storage once, and maps the
    # other names to the stored one in the metadata.
    aliases = {
        alias: name
        for alias, name in metadata.items()
        if alias not in layout and isinstance(name, str) and name in layout
        if alias != "format"  # its value "pt" may also be a tensor name
    }
    # Tied parameters have the same last name, as lm_head.weight and embed.weight.
    unlike = [a for a, n in aliases.items() if a.split(".")[-1] != n.split(".")[-1]]
    return Checkpoint(
        name=str(path),
        format="safetensors",
        path=path,
        layout=layout,
        aliases=aliases,
        metadata=metadata,
        notes=[
            f"the metadata entry {alias!r}: {aliases[alias]!r} is read as a second "
            "name of that tensor, as save_model writes it"
            for alias in unlike
        ],
    )


def encode_header(
    layout: Layout,
    metadata: Mapping[str, str],
) -> bytes:
    """Safetensors header, including its length prefix, for contiguous tensors.

    Parameters
    ----------
    layout : mapping of str to (dtype, shape)
        Dtype and shape of each tensor, in the order in which they are stored.
    metadata : mapping of str to str
        Content of ``__metadata__``.

    Returns
    -------
    bytes
        Padded with spaces to a multiple of 8 bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header(file: FileSource) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(file.read(0, 8), "little") if file.size >= 8 else 0
    if not 2 <= size <= file.size - 8:
        raise _broken(
            file.path,
            f"its first 8 bytes claim a header of {size} bytes, in a file of "
            f"{file.size}",
        )
    if size > LARGEST_HEADER:
        raise ValueError(
            f"{file.path}: its first 8 bytes claim a header of {size} bytes, at most "
            f"{LARGEST_HEADER} are read; if it is complete, divide it into several "
            "files with an index"
        )
    try:
        text = file.read(8, size).decode("utf-8")
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(file.path, f"its header is not a JSON object: {error}") from None
    if not isinstance(header, dict):
        raise _broken(file.path, "its header is not a JSON object")
    if len(header) > MOST_TENSORS:
        raise _broken(file.path, f"it names {len(header)} tensors")
    return header, 8 + size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def _tensor(file: FileSource, name: str, entry: Any, start: int) -> Tensor:
    where = f"tensor {name!r}"
    try:
        kind, shape = entry["dtype"], entry["shape"]
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _broken(
            file.path, f"{where} lacks dtype, shape or data_offsets"
        ) from None
    numbers = [begin, end, *shape] if isinstance(shape, list) else [None]
    if not all(type(n) is int and 0 <= n <= 1 << 62 for n in numbers) or (
        math.prod(n or 1 for n in shape) > MOST_ELEMENTS  # NumPy counts so if one is 0
    ):
        raise _broken(file.path, f"{where} has shape {shape}, bytes {begin} to {end}")
    if not isinstance(kind, str) or kind not in DTYPES:
        advice = CONVERSIONS.get(kind) if isinstance(kind, str) else None
        message = (
            f"{file.path}: {where} has dtype {kind}, which cannot be averaged "
            f"(known: {', '.join(DTYPES)}); "
            f"{advice or 'convert the checkpoint to one of them first'}"
        )
        if advice is None or end < begin:
            raise ValueError(message)
        source = UnsupportedSource(message)
        return Tensor(np.dtype("V1"), (end - begin,), source, start + begin)
    n_bytes = math.prod(shape) * DTYPES[kind].itemsize
    if end - begin != n_bytes or start + end > file.size:
        raise _broken(
            file.path,
            f"{where}, {kind} of shape {tuple(shape)}, needs {n_bytes} bytes and "
            f"claims those from {begin} to {end} of {file.size - start}",
        )
    return Tensor(DTYPES[kind], tuple(shape), file, start + begin)


def _check_gaps(file: FileSource, layout: dict[str, Tensor], start: int) -> None:
    expected = start
    for name, tensor in sorted(layout.items(), key=lambda item: item[1].offset):
        if tensor.nbytes and tensor.offset != expected:
            raise _broken(
                file.path, f"tensor {name!r} must begin where the previous one ends"
            )
        expected += tensor.nbytes
    if expected != file.size:
        raise _broken(
            file.path, f"{file.size - expected} bytes do not belong to a tensor"
        )


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not a complete safetensors file: {reason}; copy or "
        "download it again"
    )
