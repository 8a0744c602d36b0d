"""Readers of safetensors and npz files, memory-mapped where possible."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ensembles.embeddings.files.binary_files import (
    REPLACING,
    NotUtf8,
    check_regular,
    map_array,
)
from ensembles.embeddings.vectors.word_vectors import (
    WordVectors,
    as_float32,
    check_matrix,
)

MATRIX = ("embeddings", "vectors", "matrix")
TOKENS = ("tokens", "words", "vocab")
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Memory-map the tensors of a safetensors file.

    Parameters
    ----------
    path : Path
        The safetensors file.

    Returns
    -------
    dict of str to ndarray
        Tensors by name, without those of an unsupported dtype, such as float8.

    Raises
    ------
    ValueError
        If the file is truncated or malformed.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, "numpy"):  # validates the header against the file size
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file: {error}"
        ) from None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: _mapped_tensor(path, entry, 8 + size)
        for name, entry in header.items()
        if entry["dtype"] in DTYPES
    }


def _mapped_tensor(path: Path, entry: dict[str, Any], start: int) -> NDArray[Any]:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    if 0 in shape:
        return np.empty(shape, dtype)
    return map_array(path, dtype, shape, start + entry["data_offsets"][0])


def read_safetensors(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from a safetensors file, such as one of `write_vectors`.

    Parameters and errors are those of `read_vectors`; the tensors those of
    `from_arrays`.
    """
    return from_arrays(arrays(path), str(path), limit, errors)


def from_arrays(
    tensors: dict[str, NDArray[Any]], source: str, limit: int | None, errors: str
) -> WordVectors:
    """Word vectors from named arrays, as safetensors and npz files hold them.

    Parameters
    ----------
    tensors : dict of str to ndarray
        Arrays by name: ``embeddings`` (or ``vectors``, ``matrix``) of shape
        (n_tokens, dim), ``tokens`` (or ``words``, ``vocab``) as strings, or as
        concatenated UTF-8 bytes with ``offsets`` of shape (n_tokens + 1,), and
        optionally ``counts`` of shape (n_tokens,).
    source : str
        Path of the file, for messages and the format.
    limit : int or None
        Number of tokens to read, the first ones; None reads all.
    errors : str
        Error handler for tokens that are not UTF-8, as in ``bytes.decode``.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If an array is missing, arrays do not fit together, or a token is not UTF-8 and
        ``errors`` is "strict".
    TypeError
        If an array has the wrong dtype.
    """
    matrix = tensors[_find_name(tensors, MATRIX, source)]
    token_array = tensors[_find_name(tensors, TOKENS, source)]
    check_matrix(matrix, source)
    tokens = _tokens(token_array, tensors.get("offsets"), source, errors)
    if len(tokens) != len(matrix):
        raise ValueError(
            f"{source} must have a vector for each token: found {len(tokens)} tokens "
            f"and {len(matrix)} vectors"
        )
    counts = tensors.get("counts")
    if counts is not None and counts.shape != (len(tokens),):
        raise ValueError(f"{source} must have a count for each token")
    return WordVectors(
        tokens[:limit],
        as_float32(matrix[:limit]),
        counts=None if counts is None else counts[:limit].astype(np.int64),
        source=source,
        format=Path(source).suffix[1:],
    )


def choose_column(names: Sequence[str], source: str) -> list[str]:
    """Names of the arrays in a file that `from_arrays` uses.

    Parameters
    ----------
    names : sequence of str
        Names of all arrays in the file.
    source : str
        Path of the file, for messages.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If the matrix or the tokens are missing.
    """
    needed = [_find_name(names, MATRIX, source), _find_name(names, TOKENS, source)]
    return [*needed, *(name for name in ("offsets", "counts") if name in names)]


def _find_name(names: Collection[str], candidates: Sequence[str], source: str) -> str:
    for name in candidates:
        if name in names:
            return name
    raise ValueError(
        f"{source} must hold an array called "
        f"{' or '.join(map(repr, candidates))}, found "
        f"{', '.join(map(repr, names)) or 'none'}"
    )


def _tokens(
    token_array: NDArray[Any], offsets: NDArray[Any] | None, source: str, errors: str
) -> list[str]:
    if token_array.ndim == 1 and token_array.dtype.kind == "U":
        return [str(token) for token in token_array.tolist()]
    if token_array.ndim != 1 or token_array.dtype != np.uint8 or offsets is None:
        raise TypeError(
            f"tokens of {source} must be strings, or bytes with offsets; found "
            f"{token_array.dtype} of shape {token_array.shape}"
        )
    steps = np.diff(offsets.astype(np.int64), prepend=0, append=len(token_array))
    if offsets.ndim != 1 or len(offsets) < 2 or (steps < 0).any() or steps[0]:
        raise ValueError(
            f"{source}: offsets must increase from 0 to the end of the tokens"
        )
    text, ends = token_array.tobytes(), offsets.tolist()
    try:
        return [
            text[begin:end].decode("utf-8", errors) for begin, end in pairwise(ends)
        ]
    except UnicodeDecodeError as error:
        raise NotUtf8(
            f"tokens of {source} must be UTF-8: {error}; {REPLACING}"
        ) from None


LOCAL_HEADER = 30  # bytes of a local zip header before the file name
MOST_EXPANDED = 1032  # maximum compression ratio of zlib
HEADERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read_npz(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from an npz file; uncompressed arrays are memory-mapped.

    Parameters and errors are those of `read_vectors`; the arrays those of
    `from_arrays`. Arrays of objects are refused, because their pickles could run code.
    """
    size = check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            names = [n.removesuffix(".npy") for n in infos if n.endswith(".npy")]
            arrays_by_name = {
                name: _npz_array(path, archive, infos[f"{name}.npy"], size)
                for name in choose_column(names, str(path))
            }
    except (zipfile.BadZipFile, struct.error, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a complete npz file: {error}") from None
    except (NotImplementedError, RuntimeError) as error:  # unsupported or encrypted zip
        raise ValueError(
            f"{path} must be an npz file as numpy writes it: {error}"
        ) from None
    return from_arrays(arrays_by_name, str(path), limit, errors)


def _npz_array(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int
) -> NDArray[Any]:
    with archive.open(info) as member:
        try:
            shape, by_column, dtype = HEADERS[npy.read_magic(member)](member)
        except KeyError as error:
            raise ValueError(
                f"{path}: {info.filename} is of version {error} of the format npy "
                f"(known: {', '.join(map(str, HEADERS))})"
            ) from None
        except (ValueError, TokenError, MemoryError, RecursionError) as error:
            raise ValueError(
                f"{path}: {info.filename} is not an array: "
                f"{error or type(error).__name__}"
            ) from None
        where = f"{path}: {info.filename}"
        if dtype.hasobject:
            raise TypeError(
                f"{where} must hold numbers or strings, found objects, which could run "
                "code; save them as numpy strings: np.array(tokens, 'U')"
            )
        n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        head = member.tell()
        if head + n_bytes != info.file_size or n_bytes > size * MOST_EXPANDED:
            raise ValueError(f"{where} of shape {shape} needs {n_bytes} bytes")
        stored = info.compress_type == zipfile.ZIP_STORED
        if stored and not by_column and n_bytes and not info.flag_bits & 1:
            offset = _start(path, info) + head
            if offset + n_bytes > size:
                raise ValueError(f"{where} extends past the end of the file")
            return map_array(path, dtype, shape, offset)
        flat = np.frombuffer(member.read(n_bytes), dtype)
    return flat.reshape(shape, order="F" if by_column else "C")


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Offset of the data; the local header may differ from the central directory."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(LOCAL_HEADER)
    name, extra = struct.unpack("<HH", head[26:30])
    return int(info.header_offset + LOCAL_HEADER + name + extra)
