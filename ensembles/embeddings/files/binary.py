"""Numbers one after the other in a binary file, read within its bounds."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ensembles.embeddings.files.mapped_files import mapped


class Reader:
    """A place in a mapped file that moves on as it is read.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = mapped(path)
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self.data) - self.at

    def take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes.

        Raises
        ------
        ValueError
            If the file has not so many left.
        """
        if not 0 <= n_bytes <= self.left:
            raise self.broken(f"{what} needs {n_bytes} bytes, of which {self.left} are")
        found = bytes(self.data[self.at : self.at + n_bytes])
        self.at += n_bytes
        return found

    def numbers(self, layout: str, what: str) -> tuple[Any, ...]:
        """The next numbers, little-endian, as `struct` names them."""
        layout = "<" + layout
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def word(self, end: int, longest: int) -> bytes:
        """Bytes up to one that ends them, which is passed over."""
        chunk = bytes(self.data[self.at : self.at + longest])
        size = chunk.find(end)
        if size < 0:
            raise self.broken(f"no word ends within {longest} bytes of {self.at}")
        self.at += size + 1
        return chunk[:size]

    def broken(self, what: str) -> ValueError:
        """An error that tells file and reason."""
        return ValueError(f"{self.path} is not a whole file of vectors: {what}")
