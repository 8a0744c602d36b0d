"""GGUF files of llama.cpp: tensors after typed key-value metadata.

Source: docs/gguf.md of ggml, and gguf.h. GGUF counts dimensions from the fastest on, so
that its shapes are the reverse of ours. Quantized tensors are refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import xxhash

from ensembles.atomic_io import preallocate, pwrite_all
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    FileContents,
    FileSource,
    Tensor,
    TensorInfo,
)
from ensembles.checkpoints.formats.output import FileSink, OutputFile, Sink
from ensembles.checkpoints.formats.table import FORMATS, FileHead
from ensembles.registry import register

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LARGEST_HEADER = 40 << 20  # bytes; the largest vocabularies take 20 MiB
MOST_TENSORS = MOST_PAIRS = 100_000
MOST_DIMENSIONS = 4
MOST_TEXTS = 2_000_000  # strings of an array
DTYPES = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    24: np.dtype(np.int8),
    25: np.dtype(np.int16),
    26: np.dtype(np.int32),
    27: np.dtype(np.int64),
    28: np.dtype(np.float64),
    30: np.dtype(ml_dtypes.bfloat16),
}
TYPES = {dtype: kind for kind, dtype in DTYPES.items()}
QUANTIZED = {
    **{2: "Q4_0", 3: "Q4_1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"},
    **{9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"},
    **{15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"},
    **{20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M"},
    **{31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0"},
    **{36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 39: "MXFP4"},
    **{40: "NVFP4", 41: "Q1_0"},
}
# Formats of scalar values, by the number of their type; 8 is a string, 9 an array.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")  # of a string
ALIGNMENT = "general.alignment"
SPLIT = "split.count"
KEY = "ensembles"  # first part of the names of our entries


def _matches(head: FileHead) -> bool:
    return head.start.startswith(MAGIC)


def _write(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    """Write the header with zeros as digests first, and again when they are known."""
    if file.first is None:
        raise ValueError(
            f"{file.name} needs the metadata of a GGUF file, such as its architecture "
            "and tokenizer; make a GGUF file the first member"
        )
    template = _read_header(FileSource(file.first))
    names = [n for n in dict.fromkeys([*file.order, *file.layout]) if n in file.layout]
    offsets, end = {}, 0
    for name in names:
        dtype, shape = file.layout[name]
        if len(shape) > MOST_DIMENSIONS:
            raise ValueError(
                f"{file.name}: tensor {name!r} has {len(shape)} dimensions, a GGUF "
                f"file at most {MOST_DIMENSIONS}; choose another format"
            )
        offsets[name] = end
        end = template.aligned(end + math.prod(shape) * dtype.itemsize)
    header = _encode(template, file, offsets)
    start = template.aligned(len(header))
    with file.path.open("wb", buffering=0) as opened:
        fd = opened.fileno()
        preallocate(fd, start + end)
        pwrite_all(fd, memoryview(header), 0)
        yield {name: FileSink(fd, start + offsets[name]) for name in names}
        pwrite_all(fd, memoryview(_encode(template, file, offsets)), 0)


def _contents(path: Path) -> FileContents:
    """Contents of a header, also with quantized tensors.

    Their sizes are the distances to the next tensor, because the block size of a
    quantized type is not known here.
    """
    file = FileSource(path)
    header = _read_header(file)
    start = header.aligned(header.end)
    limits = sorted({start + t.offset for t in header.tensors} | {file.size})
    sizes = {begin: end - begin for begin, end in pairwise(limits)}
    tensors = []
    for tensor in header.tensors:
        # At most 8 elements a byte, so that a hostile shape does not overflow later.
        if start + tensor.offset > file.size or tensor.n_elements > 8 * file.size:
            raise _broken(file, f"tensor {tensor.name!r} is larger than the file")
        dtype = DTYPES.get(tensor.kind)
        n_bytes = sizes.get(start + tensor.offset, 0)
        if dtype is not None:
            n_bytes = tensor.n_elements * dtype.itemsize
        kind = dtype or QUANTIZED.get(tensor.kind, f"type {tensor.kind}")
        tensors.append(TensorInfo(tensor.name, str(kind), tensor.shape, n_bytes))
    metadata = _result_metadata(header)
    values = {
        name: f"{value!r:.80}"
        for name, value in header.values.items()
        if name not in metadata
    }
    return FileContents({"": tensors}, values, metadata)


@register(
    FORMATS,
    suffixes=(".gguf",),
    matches=_matches,
    write=_write,
    keeps_metadata=True,
    keeps_aliases=False,
    dtypes=frozenset(TYPES),
    needs_first=True,
    contents=_contents,
    in_directories=False,  # copies for another program
)
def gguf(path: Path) -> Checkpoint:
    """Layout of a GGUF file, versions 2 and 3.

    A result in this format has the metadata of the first member, byte for byte, also
    ``general.file_type`` if the dtype changes, followed by the metadata of the result:
    one string each for the provenance and the digests.

    Parameters
    ----------
    path : Path
        Path of the GGUF file, with any suffix.

    Returns
    -------
    Checkpoint
        Shapes are the reverse of those in the file. The configuration has the metadata,
        with digests in place of arrays.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the file is damaged, big-endian, one of several parts, or a tensor is
        quantized.
    """
    file = FileSource(path)
    header = _read_header(file)
    n_parts = header.values.get(SPLIT, 1)
    if n_parts not in (0, 1):
        raise ValueError(
            f"{path} is one of {n_parts} parts of a model; join them with "
            "llama-gguf-split --merge first"
        )
    config = {
        name: value
        for name, value in header.values.items()
        if name == "general.architecture" or _first_part(name) not in ("general", KEY)
    }
    return Checkpoint(
        name=str(path),
        format="gguf",
        path=path,
        layout=_layout(file, header),
        config=config,
        metadata=_result_metadata(header),
    )


class _TensorInfo(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


class _Header(NamedTuple):
    """Header of a GGUF file; ``pairs`` are its entries, except for ours."""

    version: int
    n_pairs: int
    pairs: bytes
    values: dict[str, Any]
    tensors: list[_TensorInfo]
    end: int
    alignment: int

    def aligned(self, offset: int) -> int:
        """First multiple of the alignment from an offset on."""
        return offset + -offset % self.alignment


class _Cursor:
    """Reads the header of a file value by value."""

    def __init__(self, file: FileSource) -> None:
        self.file = file
        self.at = 0
        self._data = b""

    def take(self, size: int) -> bytes:
        """Next bytes."""
        start, self.at = self.at, self.at + size
        if self.at > len(self._data):
            self._read_to(self.at)
        return self._data[start : self.at]

    def skip_texts(self, n_texts: int) -> None:
        """Skip strings; a vocabulary has hundreds of thousands."""
        if n_texts > MOST_TEXTS:
            raise _broken(self.file, f"an array has {n_texts} strings")
        at, data = self.at, self._data
        for _ in range(n_texts):
            if at + 8 > len(data):
                data = self._read_to(at + 8)
            at += 8 + LENGTH.unpack_from(data, at)[0]
        self.at = at
        self.take(0)

    def _read_to(self, end: int) -> bytes:
        limit = min(self.file.size, LARGEST_HEADER)
        if end > limit:
            raise _broken(
                self.file,
                f"its header ends after byte {end}, of {self.file.size} (at most "
                f"{LARGEST_HEADER} are read)",
            )
        wanted = min(limit, max(end, 2 * len(self._data), 1 << 16))
        n_read = len(self._data)
        self._data += self.file.read(n_read, wanted - n_read)
        return self._data

    def span(self, start: int, end: int) -> bytes:
        """Bytes that were taken, by offset."""
        return self._data[start:end]

    def number(self, kind: str) -> Any:
        """Next number, of a format of `struct`."""
        (value,) = struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))
        return value

    def text(self) -> str:
        """Next string."""
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _broken(self.file, f"a string is not UTF-8: {error}") from None

    def value(self, kind: int, name: str) -> Any:
        """Next value of a type; the digest of an array."""
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        start = self.at
        element = self.number("I") if kind == ARRAY else -1
        if element != STRING and element not in SCALARS:
            raise _broken(
                self.file,
                f"metadata {name!r} has the type {kind} of {element}, which is unknown",
            )
        n_elements = self.number("Q")
        if element == STRING:
            self.skip_texts(n_elements)
        else:
            self.take(n_elements * struct.calcsize("<" + SCALARS[element]))
        return f"array xxh3:{xxhash.xxh3_64_hexdigest(self.span(start, self.at))}"


def _read_header(file: FileSource) -> _Header:
    cursor = _Cursor(file)
    if cursor.take(4) != MAGIC:
        raise _broken(file, "it must begin with GGUF")
    version = cursor.number("I")
    if version in (2 << 24, 3 << 24):
        raise ValueError(
            f"{file.path} is a big-endian GGUF file; convert it with "
            "gguf-convert-endian of the package gguf first"
        )
    if version not in VERSIONS:
        raise ValueError(
            f"{file.path} is a GGUF file of version {version} (known: 2, 3); convert "
            "the model again"
        )
    n_tensors, n_pairs = cursor.number("Q"), cursor.number("Q")
    if n_tensors > MOST_TENSORS or n_pairs > MOST_PAIRS:
        raise _broken(file, f"it has {n_tensors} tensors and {n_pairs} entries")
    values: dict[str, Any] = {}
    pairs, start = [], cursor.at
    for _ in range(n_pairs):
        name = cursor.text()
        if name in values:
            raise _broken(file, f"metadata {name!r} occurs twice")
        values[name] = cursor.value(cursor.number("I"), name)
        if _first_part(name) != KEY:
            pairs.append((start, cursor.at))
        start = cursor.at
    alignment = values.get(ALIGNMENT, 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise _broken(file, f"{ALIGNMENT} must be a power of 2, found {alignment!r}")
    return _Header(
        version=version,
        n_pairs=len(pairs),
        pairs=b"".join(cursor.span(*pair) for pair in pairs),
        values=values,
        tensors=[_tensor_info(cursor) for _ in range(n_tensors)],
        end=cursor.at,
        alignment=alignment,
    )


def _tensor_info(cursor: _Cursor) -> _TensorInfo:
    name, n_dimensions = cursor.text(), cursor.number("I")
    if n_dimensions > MOST_DIMENSIONS:
        raise _broken(cursor.file, f"tensor {name!r} has {n_dimensions} dimensions")
    lengths = [cursor.number("Q") for _ in range(n_dimensions)]
    return _TensorInfo(
        name, tuple(lengths[::-1]), cursor.number("I"), cursor.number("Q")
    )


def _layout(file: FileSource, header: _Header) -> dict[str, Tensor]:
    """Tensors in the order of the header, which must fill the rest of the file."""
    start = header.aligned(header.end)
    layout: dict[str, Tensor] = {}
    for info in header.tensors:
        if info.kind not in DTYPES:
            kind = QUANTIZED.get(info.kind, f"{info.kind}, unknown here")
            raise ValueError(
                f"{file.path}: tensor {info.name!r} has type {kind}: quantized tensors "
                "cannot be averaged; average files of type F32, F16 or BF16, and "
                "quantize the result"
            )
        if info.name in layout:
            raise _broken(file, f"tensor {info.name!r} occurs twice")
        layout[info.name] = Tensor(
            DTYPES[info.kind], info.shape, file, start + info.offset
        )
    expected = end = start
    for name, tensor in sorted(
        layout.items(), key=lambda item: (item[1].offset, item[1].nbytes)
    ):
        end = tensor.offset + tensor.nbytes
        if tensor.offset != expected or end > file.size:
            raise _broken(
                file,
                f"tensor {name!r}, {tensor.dtype} of shape {tensor.shape}, must be at "
                f"byte {expected} and end within {file.size}, found {tensor.offset} to "
                f"{end}",
            )
        expected = header.aligned(end)
    if file.size > expected:
        raise _broken(file, f"{file.size - end} bytes do not belong to a tensor")
    return layout


def _encode(template: _Header, file: OutputFile, offsets: Mapping[str, int]) -> bytes:
    """Header with the metadata of a template and the tensors of an output file."""
    counts = (template.version, len(offsets), template.n_pairs + len(file.metadata))
    parts = [MAGIC, struct.pack("<IQQ", *counts), template.pairs]
    for key, value in file.metadata.items():
        parts += [_encode_text(key), struct.pack("<I", STRING), _encode_text(value)]
    for name, offset in offsets.items():
        dtype, shape = file.layout[name]
        fields = (len(shape), *shape[::-1], TYPES[dtype], offset)
        parts += [_encode_text(name), struct.pack(f"<I{len(shape)}QIQ", *fields)]
    return b"".join(parts)


def _result_metadata(header: _Header) -> dict[str, str]:
    """Provenance and digests in a header; empty for files of other programs."""
    return {
        name: value
        for name, value in header.values.items()
        if _first_part(name) == KEY and isinstance(value, str)
    }


def _first_part(name: str) -> str:
    return name.partition(".")[0]


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _broken(file: FileSource, reason: str) -> ValueError:
    return ValueError(f"{file.path} is not a complete GGUF file: {reason}")
