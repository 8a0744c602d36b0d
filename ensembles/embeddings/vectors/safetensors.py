"""Reader of safetensors files, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.files.mapped_files import (
    REPLACING,
    NotUtf8,
    check_regular,
    mapped_array,
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
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: _array(path, entry, 8 + size)
        for name, entry in header.items()
        if entry["dtype"] in DTYPES
    }


def _array(path: Path, entry: dict[str, Any], start: int) -> NDArray[Any]:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    if 0 in shape:
        return np.empty(shape, dtype)
    return mapped_array(path, dtype, shape, start + entry["data_offsets"][0])


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from a safetensors file, such as one of `write_vectors`.

    Parameters
    ----------
    path : Path
        The safetensors file, with the tensors of `from_arrays`.
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
        If the file is malformed, or tensors are missing or do not fit together.
    TypeError
        If a tensor has the wrong dtype.
    """
    return from_arrays(arrays(path), str(path), limit, errors)


def from_arrays(
    found: dict[str, NDArray[Any]], source: str, limit: int | None, errors: str
) -> WordVectors:
    """Word vectors from named arrays, as safetensors and npz files hold them.

    Parameters
    ----------
    found : dict of str to ndarray
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
    matrix = found[_one_of(found, MATRIX, source)]
    listed = found[_one_of(found, TOKENS, source)]
    check_matrix(matrix, source)
    tokens = _tokens(listed, found.get("offsets"), source, errors)
    if len(tokens) != len(matrix):
        raise ValueError(
            f"{source} must have a vector for each token: found {len(tokens)} tokens "
            f"and {len(matrix)} vectors"
        )
    counts = found.get("counts")
    if counts is not None and counts.shape != (len(tokens),):
        raise ValueError(f"{source} must have a count for each token")
    return WordVectors(
        tokens[:limit],
        as_float32(matrix[:limit]),
        counts=None if counts is None else counts[:limit].astype(np.int64),
        source=source,
        format=Path(source).suffix[1:],
    )


def chosen(names: Sequence[str], source: str) -> list[str]:
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
    needed = [_one_of(names, MATRIX, source), _one_of(names, TOKENS, source)]
    return [*needed, *(name for name in ("offsets", "counts") if name in names)]


def _one_of(names: Collection[str], wanted: Sequence[str], source: str) -> str:
    for name in wanted:
        if name in names:
            return name
    raise ValueError(
        f"{source} must hold an array called {' or '.join(map(repr, wanted))}, found "
        f"{', '.join(map(repr, names)) or 'none'}"
    )


def _tokens(
    listed: NDArray[Any], offsets: NDArray[Any] | None, source: str, errors: str
) -> list[str]:
    if listed.ndim == 1 and listed.dtype.kind == "U":
        return [str(token) for token in listed.tolist()]
    if listed.ndim != 1 or listed.dtype != np.uint8 or offsets is None:
        raise TypeError(
            f"tokens of {source} must be strings, or bytes with offsets; found "
            f"{listed.dtype} of shape {listed.shape}"
        )
    steps = np.diff(offsets.astype(np.int64), prepend=0, append=len(listed))
    if offsets.ndim != 1 or len(offsets) < 2 or (steps < 0).any() or steps[0]:
        raise ValueError(f"{source}: offsets must rise from 0 to the end of the tokens")
    text, places = listed.tobytes(), offsets.tolist()
    try:
        return [
            text[begin:end].decode("utf-8", errors) for begin, end in pairwise(places)
        ]
    except UnicodeDecodeError as error:
        raise NotUtf8(
            f"tokens of {source} must be UTF-8: {error}; {REPLACING}"
        ) from None
