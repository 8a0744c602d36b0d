"""Memory mapping of vector files, and decoding of their tokens."""

from __future__ import annotations

import mmap
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INSTALL = "pip install 'ensemble-avg[text]'"
REPLACING = (
    "errors='replace' reads it all the same (in Python by read_vectors(path, errors=…))"
)


class NotUtf8(ValueError):
    """Raised for a token that is not UTF-8."""


def check_regular(path: Path) -> int:
    """Check that a path is a non-empty regular file.

    Parameters
    ----------
    path : Path
        File to check.

    Returns
    -------
    int
        Size in bytes.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is empty, or not a regular file, such as a pipe or a device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{path} must be a regular file: write what a pipe gives to one (files of "
            "gzip are read as they are)"
        )
    if status.st_size == 0:
        raise ValueError(f"{path} must hold vectors: it is empty")
    return status.st_size


def mapped(path: Path) -> NDArray[np.uint8]:
    """Memory-map a file as bytes; pages load when they are accessed."""
    check_regular(path)
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(view, np.uint8)


def mapped_array(
    path: Path, dtype: Any, shape: tuple[int, ...], offset: int
) -> NDArray[Any]:
    """Memory-map an array in a file; a copy if its offset is not aligned."""
    dtype = np.dtype(dtype)
    array = np.memmap(path, dtype, "r", offset, shape)
    # A plain ndarray over the map: views of an np.memmap are slow to create.
    return np.asarray(array) if offset % dtype.itemsize == 0 else np.array(array)


def decode(word: bytes, errors: str, where: str) -> str:
    """Decode a token from UTF-8.

    Parameters
    ----------
    word : bytes
        Bytes of the token.
    errors : str
        Error handler of ``bytes.decode`` for bytes that are not UTF-8, such as "strict"
        or "replace".
    where : str
        Position of the token, for messages.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the bytes contain a NUL, or are not UTF-8 and ``errors`` is "strict"
        (`NotUtf8`).
    """
    if 0 in word:
        raise ValueError(f"{where} must be a word, found a NUL byte in {word[:40]!r}")
    try:
        return word.decode("utf-8", errors)
    except UnicodeDecodeError:
        raise NotUtf8(
            f"{where} must be UTF-8, found {word[:40]!r}; {REPLACING}"
        ) from None
