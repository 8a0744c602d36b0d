"""Reading of regular files: no blocking on pipes or devices, and a maximum size."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST_JSON = 100 << 20


def open_regular(path: Path) -> int:
    """Open a regular file for reading.

    Parameters
    ----------
    path : Path
        File to open.

    Returns
    -------
    int
        File descriptor; the caller closes it.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a regular file: opening a pipe would block forever, and a device
        may never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    return descriptor


def read_regular(path: Path, *, largest: int = LARGEST_JSON) -> bytes:
    """Content of a regular file.

    Parameters
    ----------
    path : Path
        File to read.
    largest : int, default=100 MiB
        Maximum size of the file in bytes.

    Returns
    -------
    bytes

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a regular file, or larger.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, largest) + 1)
    if len(content) > largest:
        raise ValueError(f"{path} has more than {largest} bytes")
    return content


def read_json(path: Path) -> Any:
    """Value of a JSON file in UTF-8.

    Parameters
    ----------
    path : Path
        JSON file to read.

    Returns
    -------
    value
        As `json.loads` returns it.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a regular file, is larger than 100 MiB, is not JSON, or has a key
        twice with different values.
    """
    content = read_regular(path)
    try:
        return json.loads(content, object_pairs_hook=_consistent)
    except _ContradictionError as error:
        raise ValueError(f"{path} contradicts itself: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


class _ContradictionError(ValueError):
    """A key of a JSON object has two different values."""


def _consistent(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Dict of a JSON object; `json` itself would keep the last of two values."""
    values = dict(pairs)
    if len(values) < len(pairs):
        for name, value in pairs:
            if values[name] != value:
                raise _ContradictionError(
                    f"key {name!r} occurs twice, with different values"
                )
    return values
