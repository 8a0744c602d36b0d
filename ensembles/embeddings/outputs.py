"""Files and folders that are whole or absent."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, *, force: bool) -> Iterator[Path]:
    """A place beside ``path`` for a file or a folder, which then takes that name.

    Parameters
    ----------
    path : Path
    force : bool
        Whether what stands at ``path`` is replaced.

    Yields
    ------
    Path
        Where nothing stands yet.

    Raises
    ------
    FileExistsError
        If something stands at ``path`` and not ``force``.
    """
    if os.path.lexists(path) and not force:
        raise FileExistsError(
            f"{path} exists; force=True replaces it, or choose another place"
        )
    place = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        yield place
        for part in [*place.rglob("*"), place]:
            _flush(part)
        if place.is_dir() and path.is_dir():
            aside = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
            os.rename(path, aside)
            os.rename(place, path)
            shutil.rmtree(aside)
        else:
            os.replace(place, path)
        _flush(path.parent)
    finally:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
