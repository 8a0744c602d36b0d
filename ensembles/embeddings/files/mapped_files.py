"""Files of vectors: opened safely, mapped, and told apart."""

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
    """A token that is not UTF-8, where that is not allowed."""


def check_regular(path: Path) -> int:
    """Size of a regular file that is not empty.

    Parameters
    ----------
    path : Path

    Returns
    -------
    int

    Raises
    ------
    FileNotFoundError
    ValueError
        If it is a pipe, a device, or empty.
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
    """Bytes of a file, in memory as far as they are looked at."""
    check_regular(path)
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(view, np.uint8)


def mapped_array(
    path: Path, dtype: Any, shape: tuple[int, ...], offset: int
) -> NDArray[Any]:
    """Array that lies in a file, mapped; a copy where its place suits no processor."""
    dtype = np.dtype(dtype)
    array = np.memmap(path, dtype, "r", offset, shape)
    # A plain array over the map: a memmap's views are slow to make.
    return np.asarray(array) if offset % dtype.itemsize == 0 else np.array(array)


def decode(word: bytes, errors: str, where: str) -> str:
    """A token's text.

    Parameters
    ----------
    word : bytes
    errors : {"strict", "replace", "ignore", "backslashreplace"}
        What becomes of bytes that are not UTF-8.
    where : str
        For messages.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If they are not UTF-8 and ``errors`` is "strict", or hold a NUL.
    """
    if 0 in word:
        raise ValueError(f"{where} must be a word, found a NUL byte in {word[:40]!r}")
    try:
        return word.decode("utf-8", errors)
    except UnicodeDecodeError:
        raise NotUtf8(
            f"{where} must be UTF-8, found {word[:40]!r}; {REPLACING}"
        ) from None
