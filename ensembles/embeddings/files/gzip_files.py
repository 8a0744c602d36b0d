"""Decompression of gzip vector files to temporary files of bounded size."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
def unpacked(path: Path) -> Iterator[Path]:
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
    left = max(ALWAYS_FINE, MOST_EXPANDED * path.stat().st_size)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / path.name.removesuffix(".gz")
        try:
            with gzip.open(path) as source, copy.open("wb") as file:
                while block := source.read(STEP):
                    left -= len(block)
                    if left < 0:
                        raise ValueError(
                            f"{path} must hold vectors, which never expand "
                            f"{MOST_EXPANDED} times: decompress it yourself if it does"
                        )
                    file.write(block)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from None
        yield copy
