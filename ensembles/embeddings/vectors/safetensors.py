"""Reader of safetensors files, whose tensors are memory-mapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.files.binary_files import check_regular, map_array
from ensembles.embeddings.vectors.named_arrays import from_arrays
from ensembles.embeddings.vectors.word_vectors import WordVectors

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


def map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Memory-map the tensors of a safetensors file.

    Parameters
    ----------
    path : Path
        The safetensors file.

    Returns
    -------
    dict of str to ndarray
        Tensors by name; tensors of an unsupported dtype, such as float8, are left out.

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


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from a safetensors file, such as one of `write_vectors`.

    The tensors, parameters and errors are documented in `from_arrays`.
    """
    return from_arrays(map_tensors(path), str(path), limit, errors)
