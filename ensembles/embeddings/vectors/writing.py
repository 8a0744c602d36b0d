"""Word vectors written so that they open at once: a file that is mapped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.outputs import whole
from ensembles.embeddings.vectors.reading import read_vectors


def write_vectors(
    vectors: Any, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Write word vectors to a safetensors or npz file, which `read_vectors` maps.

    Parameters
    ----------
    vectors : object
        As `read_vectors` takes it. Tokens, vectors and counts are written; n-grams and
        tokenizers are not.
    path : path
        Ends in ``.safetensors`` or ``.npz``.
    force : bool, default=False
        Whether a file there is replaced.

    Returns
    -------
    Path
        Of the file, which is whole or absent.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    FileExistsError
        If there is something and not ``force``.
    """
    path, found = Path(path), read_vectors(vectors)
    encoded = [token.encode("utf-8", "surrogatepass") for token in found.tokens]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(token) for token in encoded], out=offsets[1:])
    arrays: dict[str, NDArray[Any]] = {
        "embeddings": found.matrix,
        "tokens": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": offsets,
    }
    if found.counts is not None:
        arrays["counts"] = found.counts
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        with whole(path, force=force) as place:
            save_file(arrays, place, {"format": "np"})
    elif path.suffix == ".npz":
        with whole(path, force=force) as place, place.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    else:
        raise ValueError(f"path must end in .safetensors or .npz, found {str(path)!r}")
    return path
