"""Digests of tensors, computed while they are streamed and independent of shards.

128-bit XXH3 of every 8 MiB block of a tensor, then of the block digests in the order of
tensor names. Digests detect mix-ups and bit rot, not tampering.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ensembles.checkpoints.formats.pytorch_files.crc import crc32

BLOCK = 8 << 20
ZERO = "0" * 32


class BlockDigest:
    """Block digests of a part of a tensor that starts at a block boundary.

    Parameters
    ----------
    has_crc : bool
        Whether the part's CRC-32 is computed too.

    Attributes
    ----------
    crc : int
        CRC-32 of the bytes so far; 0 without ``has_crc``.
    """

    def __init__(self, *, has_crc: bool) -> None:
        self.blocks: list[bytes] = []
        self.crc = 0
        self._has_crc = has_crc
        self._current = xxhash.xxh3_128()
        self._size = 0

    def update(self, buffer: memoryview) -> None:
        """Add bytes; they must not extend beyond the end of the current block."""
        self._current.update(buffer)
        if self._has_crc:
            self.crc = crc32(buffer, self.crc)
        self._size += len(buffer)
        if self._size == BLOCK:
            self._close()

    def close(self) -> list[bytes]:
        """Digests of all blocks; the last one may be shorter."""
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
    """Digest of named tensors from their dtypes, shapes and block digests.

    Parameters
    ----------
    tensors : mapping of str to (dtype, shape, iterable of bytes)
        Dtype, shape and block digests of each tensor, blocks in order; the order of
        the names does not matter.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    total = xxhash.xxh3_128()
    for name in sorted(tensors):
        dtype, shape, blocks = tensors[name]
        total.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        for block in blocks:
            total.update(block)
    return total.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file.

    Parameters
    ----------
    path : Path
        Path of the file.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
