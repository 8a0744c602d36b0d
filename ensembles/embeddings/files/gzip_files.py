"""Vectors compressed by gzip: decompressed into a temporary file, within a bound."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GZIP = b"\x1f\x8b"
STEP = 1 << 20
# Text of numbers shrinks to a third. What expands beyond is made to fill a disk.
MOST_EXPANDED, ALWAYS_FINE = 50, 64 << 20


def is_gzip(path: Path) -> bool:
    """Whether a regular file begins as gzip does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Decompressed copy of a gzip file, deleted at the end; what is mapped stays.

    Parameters
    ----------
    path : Path

    Yields
    ------
    Path
        Its name is that of the file without ".gz".

    Raises
    ------
    ValueError
        If the file is not whole, or expands beyond what vectors do.
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
