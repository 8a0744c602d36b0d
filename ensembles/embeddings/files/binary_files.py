"""Vector files in binary: memory maps, bounds-checked reading, and gzip."""

from __future__ import annotations

import gzip
import mmap
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INSTALL = "pip install 'ensemble-avg[text]'"
REPLACING = (
    "pass errors='replace' to read_vectors (--errors replace) to replace such bytes"
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
            f"{path} must be a regular file: write the output of a pipe to a file "
            "(gzip files are read directly)"
        )
    if status.st_size == 0:
        raise ValueError(f"{path} must contain vectors, but it is empty")
    return status.st_size


def map_bytes(path: Path) -> NDArray[np.uint8]:
    """Memory-map a file as bytes; pages load when they are accessed."""
    check_regular(path)
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(view, np.uint8)


def map_array(
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


class BinaryReader:
    """Read a memory-mapped binary file sequentially.

    Parameters
    ----------
    path : Path
        Regular, non-empty file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = map_bytes(path)
        self.at = 0

    @property
    def n_left(self) -> int:
        """Number of unread bytes."""
        return len(self.data) - self.at

    def take(self, n_bytes: int, part: str) -> bytes:
        """Read the next ``n_bytes`` bytes; ``part`` names them in messages.

        Raises
        ------
        ValueError
            If fewer bytes are left.
        """
        if not 0 <= n_bytes <= self.n_left:
            raise self.broken(
                f"{part} needs {n_bytes} bytes, but {self.n_left} are left"
            )
        content = bytes(self.data[self.at : self.at + n_bytes])
        self.at += n_bytes
        return content

    def numbers(self, layout: str, part: str) -> tuple[Any, ...]:
        """Read little-endian numbers in a format of the module ``struct``."""
        layout = "<" + layout
        return struct.unpack(layout, self.take(struct.calcsize(layout), part))

    def word(self, end: int, longest: int) -> bytes:
        """Read bytes up to the terminator ``end``, and skip it."""
        chunk = bytes(self.data[self.at : self.at + longest])
        size = chunk.find(end)
        if size < 0:
            raise self.broken(f"no word ends within {longest} bytes of {self.at}")
        self.at += size + 1
        return chunk[:size]

    def broken(self, reason: str) -> ValueError:
        """Return a `ValueError` that names the file and the reason."""
        return ValueError(f"{self.path} is not a complete file of vectors: {reason}")


GZIP = b"\x1f\x8b"
STEP = 1 << 20
# Numbers as text compress to a third; a far higher ratio suggests a zip bomb.
MOST_EXPANDED, ALWAYS_FINE = 50, 64 << 20


def is_gzip(path: Path) -> bool:
    """Whether a regular file begins with the magic number of gzip."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


@contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """Decompress a gzip file to a temporary copy, deleted when the block ends.

    Memory maps of the copy stay valid after its deletion.

    Parameters
    ----------
    path : Path
        The gzip file.

    Yields
    ------
    Path
        Path of the copy, named like ``path`` without ".gz".

    Raises
    ------
    ValueError
        If the file is truncated or corrupt, or expands to more than 64 MiB and more
        than 50 times its size.
    """
    n_left = max(ALWAYS_FINE, MOST_EXPANDED * path.stat().st_size)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / path.name.removesuffix(".gz")
        try:
            with gzip.open(path) as source, copy.open("wb") as file:
                while block := source.read(STEP):
                    n_left -= len(block)
                    if n_left < 0:
                        raise ValueError(
                            f"{path} must not expand more than {MOST_EXPANDED} times; "
                            "decompress it first if it is correct"
                        )
                    file.write(block)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is not a complete gzip file: {error}") from None
        yield copy
