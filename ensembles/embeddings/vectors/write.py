"""Write word vectors to files that are memory-mapped when read."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ensembles.atomic_io import atomic_output, check_absent
from ensembles.embeddings.files.vector_files import save_tensors
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.vectors.vector_table import Matrix, VectorTable

SUFFIXES = (".safetensors", ".npz")


def write_vectors(
    vectors: Any, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Write word vectors to a safetensors or npz file, which `read_vectors` maps.

    Parameters
    ----------
    vectors : object
        Vectors as in `read_vectors`. Tokens, vectors and counts are written, without
        n-grams.
    path : path
        Output file with the suffix ``.safetensors`` or ``.npz``, written atomically.
    force : bool, default=False
        Whether an existing file is replaced.

    Returns
    -------
    Path
        Path of the file.

    Raises
    ------
    ValueError
        If the suffix is not supported, the vectors belong to a tokenizer, or a token
        cannot be encoded as UTF-8.
    FileExistsError
        If ``path`` exists and not ``force``, or is a directory.

    Warns
    -----
    UserWarning
        If the vectors have n-grams, which are not written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path must end in .safetensors or .npz, found {str(path)!r}")
    check_absent(path, folder=False, force=force)
    word_vectors = read_vectors(vectors)
    if word_vectors.tokenizer is not None:
        raise ValueError(
            f"{word_vectors.source} cannot be converted: its vectors belong to a "
            "tokenizer, and it is memory-mapped already"
        )
    if word_vectors.ngrams is not None:
        warnings.warn(
            f"the n-grams of {word_vectors.source} are not written: {path} has "
            "only words",
            stacklevel=2,
        )
    try:
        encoded = [token.encode() for token in word_vectors.tokens]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{word_vectors.source} has a token that is not valid text: "
            f"{error.object!r}"
        ) from None
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(token) for token in encoded], out=offsets[1:])
    arrays: dict[str, NDArray[Any]] = {
        "embeddings": _array_of(word_vectors.matrix, path.suffix),
        "tokens": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": offsets,
    }
    if word_vectors.counts is not None:
        arrays["counts"] = word_vectors.counts
    if path.suffix == ".safetensors":
        with atomic_output(path, folder=False, force=force) as temporary:
            save_tensors(arrays, temporary)
    else:
        with (
            atomic_output(path, folder=False, force=force) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, allow_pickle=False, **arrays)
    return path


def _array_of(matrix: Matrix, suffix: str) -> NDArray[Any]:
    """Vectors as an array that the format can hold: npz has no bfloat16."""
    if isinstance(matrix, VectorTable) or (
        suffix == ".npz" and matrix.dtype == ml_dtypes.bfloat16
    ):
        return np.asarray(matrix, np.float32)
    return matrix
