"""Digests of tensors, the same for any shard layout, taken while bytes pass by.

XXH3 of 128 bits over blocks of 8 MiB of each tensor, then over the list of block
digests in the order of names. They guard against mix-ups and rot, not attackers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

BLOCK = 8 << 20
ZERO = "0" * 32
CHUNK = 1 << 20


class Running:
    """Digests of the blocks of a stretch of a tensor that begins with a block."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self._current = xxhash.xxh3_128()
        self._size = 0

    def update(self, buffer: memoryview) -> None:
        """Take bytes that do not go past the end of a block."""
        self._current.update(buffer)
        self._size += len(buffer)
        if self._size == BLOCK:
            self._close()

    def close(self) -> list[bytes]:
        """Digests of all blocks, the last one perhaps shorter."""
        if self._size:
            self._close()
        return self.blocks

    def _close(self) -> None:
        self.blocks.append(self._current.digest())
        self._current.reset()
        self._size = 0


def digest(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], Iterable[bytes]]],
) -> str:
    """Digest of named tensors from their dtypes, shapes and blocks' digests.

    Parameters
    ----------
    tensors : mapping of str to (dtype, shape, block digests in order)

    Returns
    -------
    str, 32 hexadecimal digits
    """
    whole = xxhash.xxh3_128()
    for name in sorted(tensors):
        dtype, shape, blocks = tensors[name]
        whole.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        for block in blocks:
            whole.update(block)
    return whole.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a whole file, 64 hexadecimal digits.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
