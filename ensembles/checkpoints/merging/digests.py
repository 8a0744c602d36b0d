"""Digests of tensors, computed while they are streamed and independent of shards.

128-bit XXH3 of every 8 MiB block of a tensor, then of the block digests in the order of
tensor names. Digests detect mix-ups and bit rot, not tampering.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.formats.zip_files.crc import crc32
from ensembles.parallel import chunks, map_threads

BLOCK = 8 << 20
CHUNK = 1 << 20  # bytes that a thread reads at once
ZERO = "0" * 32

# Dtype, shape and block digests of a tensor.
Digested = tuple[np.dtype[Any], tuple[int, ...], Iterable[bytes]]


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
        """Add bytes, which may extend beyond the end of the current block."""
        if self._has_crc:
            self.crc = crc32(buffer, self.crc)
        while len(buffer):
            part, buffer = buffer[: BLOCK - self._size], buffer[BLOCK - self._size :]
            self._current.update(part)
            self._size += len(part)
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


def digest(tensors: Mapping[str, Digested]) -> str:
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


def read_blocks(
    tensors: Iterable[Tensor], n_threads: int, progress: Callable[[int], None]
) -> dict[Tensor, list[bytes]]:
    """Block digests of stored tensors, each read once.

    Parameters
    ----------
    tensors : iterable of Tensor
        Tensors to read; repetitions are ignored.
    n_threads : int
        Largest number of threads; each has a buffer of 1 MiB.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.

    Returns
    -------
    dict of Tensor to list of bytes

    Raises
    ------
    ValueError
        If a file is truncated.
    """
    blocks: dict[Tensor, list[bytes]] = {tensor: [] for tensor in tensors}
    jobs = [
        (tensor, start, stop)
        for tensor in blocks
        for start, stop in chunks(tensor.nbytes, BLOCK)
    ]

    def start_thread() -> Callable[[tuple[Tensor, int, int]], bytes]:
        return partial(_read_block, memoryview(bytearray(CHUNK)), progress)

    read = map_threads(jobs, start_thread, n_threads)
    for (tensor, _, _), block in zip(jobs, read, strict=True):
        blocks[tensor].append(block)
    return blocks


def _read_block(
    buffer: memoryview, progress: Callable[[int], None], job: tuple[Tensor, int, int]
) -> bytes:
    """Digest of the bytes from ``start`` to ``stop`` of a tensor."""
    tensor, start, stop = job
    block = xxhash.xxh3_128()
    for first, last in chunks(stop - start, CHUNK):
        view = buffer[: last - first]
        tensor.source.read_into(view, tensor.offset + start + first)
        block.update(view)
        progress(len(view))
    return block.digest()


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
