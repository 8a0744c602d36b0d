"""Write word vectors to files that are memory-mapped when read."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.atomic_io import check_free, whole
from ensembles.embeddings.files.vector_files import save_tensors
from ensembles.embeddings.vectors.read import read_vectors

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
    check_free(path, folder=False, force=force)
    found = read_vectors(vectors)
    if found.tokenizer is not None:
        raise ValueError(
            f"{found.source} cannot be converted: its vectors are of the pieces of its "
            "tokenizer, and it opens at once as it is"
        )
    if found.ngrams is not None:
        warnings.warn(
            f"the n-grams of {found.source} stay there: {path} has its words alone",
            stacklevel=2,
        )
    try:
        encode_utf8 = [token.encode() for token in found.tokens]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{found.source} has a token that is no text: {error.object!r}"
        ) from None
    offsets = np.zeros(len(encode_utf8) + 1, np.int64)
    np.cumsum([len(token) for token in encode_utf8], out=offsets[1:])
    arrays: dict[str, NDArray[Any]] = {
        "embeddings": found.matrix,
        "tokens": np.frombuffer(b"".join(encode_utf8), np.uint8),
        "offsets": offsets,
    }
    if found.counts is not None:
        arrays["counts"] = found.counts
    if path.suffix == ".safetensors":
        with whole(path, folder=False, force=force) as place:
            save_tensors(arrays, place)
    else:
        with whole(path, folder=False, force=force) as place, place.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    return path
