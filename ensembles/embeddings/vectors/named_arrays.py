"""Word vectors from named arrays, the content of safetensors and npz files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.files.binary_files import REPLACING, NotUtf8
from ensembles.embeddings.vectors.vector_table import as_stored, check_matrix
from ensembles.embeddings.vectors.word_vectors import WordVectors

MATRIX = ("embeddings", "vectors", "matrix")
TOKENS = ("tokens", "words", "vocab")


def from_arrays(
    tensors: dict[str, NDArray[Any]], source: str, limit: int | None, errors: str
) -> WordVectors:
    """Word vectors from the arrays of a safetensors or npz file.

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
        as_stored(matrix[:limit]),
        counts=None if counts is None else counts[:limit].astype(np.int64),
        source=source,
        format=Path(source).suffix[1:],
    )


def choose_arrays(names: Sequence[str], source: str) -> list[str]:
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
