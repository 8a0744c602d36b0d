"""Bounds-checked sequential reader of binary files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ensembles.embeddings.files.mapped_files import mapped


class Reader:
    """Read a memory-mapped binary file sequentially.

    Parameters
    ----------
    path : Path
        Regular, non-empty file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = mapped(path)
        self.at = 0

    @property
    def left(self) -> int:
        """Number of unread bytes."""
        return len(self.data) - self.at

    def take(self, n_bytes: int, what: str) -> bytes:
        """Read the next ``n_bytes`` bytes; ``what`` names them in messages.

        Raises
        ------
        ValueError
            If fewer bytes are left.
        """
        if not 0 <= n_bytes <= self.left:
            raise self.broken(f"{what} needs {n_bytes} bytes, of which {self.left} are")
        found = bytes(self.data[self.at : self.at + n_bytes])
        self.at += n_bytes
        return found

    def numbers(self, layout: str, what: str) -> tuple[Any, ...]:
        """Read little-endian numbers in a format of the module ``struct``."""
        layout = "<" + layout
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def word(self, end: int, longest: int) -> bytes:
        """Read bytes up to the terminator ``end``, and skip it."""
        chunk = bytes(self.data[self.at : self.at + longest])
        size = chunk.find(end)
        if size < 0:
            raise self.broken(f"no word ends within {longest} bytes of {self.at}")
        self.at += size + 1
        return chunk[:size]

    def broken(self, what: str) -> ValueError:
        """Return a `ValueError` that names the file and the reason."""
        return ValueError(f"{self.path} is not a whole file of vectors: {what}")
