"""Files and folders that are whole or absent, vectors in them row by row."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ensembles.embeddings.vectors.files import INSTALL

# Takes texts and their vectors.
Add = Callable[[Any, Any], None]
KINDS = (".npy", ".parquet")


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
    check_free(path, force=force)
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


def check_free(path: Path, *, force: bool) -> None:
    """Raise if something stands at a path that is not to be replaced.

    Parameters
    ----------
    path : Path
    force : bool

    Raises
    ------
    FileExistsError
    """
    if os.path.lexists(path) and not force:
        raise FileExistsError(
            f"{path} exists; force=True replaces it, or choose another place"
        )


@contextmanager
def vectors_file(
    path: Path, n_columns: int, dtype: Any, *, force: bool
) -> Iterator[Add]:
    """A file of vectors that grows, and has its name once it is whole.

    Parameters
    ----------
    path : Path
        ``.npy`` holds an array of shape (n_texts, n_columns), ``.parquet`` the columns
        ``text`` and ``vector``.
    n_columns : int
    dtype : numpy dtype
    force : bool
        Whether what stands at ``path`` is replaced.

    Yields
    ------
    callable (texts, vectors)
        Adds rows.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    FileExistsError
        If something stands at ``path`` and not ``force``.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"path must end in {' or '.join(KINDS)}, found {str(path)!r}")
    with whole(path, force=force) as place:
        if path.suffix == ".npy":
            with place.open("w+b") as file:
                yield from _npy(file, n_columns, np.dtype(dtype))
        else:
            yield from _parquet(place, n_columns, np.dtype(dtype))


def _npy(file: IO[bytes], n_columns: int, dtype: np.dtype[Any]) -> Iterator[Add]:
    n_rows = 0

    def head() -> None:
        # Numpy leaves room in the header for the first axis to grow.
        file.seek(0)
        facts = {"descr": dtype.str, "fortran_order": False}
        np.lib.format.write_array_header_1_0(
            file, {**facts, "shape": (n_rows, n_columns)}
        )

    def add(texts: Any, vectors: Any) -> None:
        nonlocal n_rows
        n_rows += len(vectors)
        file.write(np.ascontiguousarray(vectors, dtype).data)

    head()
    yield add
    head()


def _parquet(place: Path, n_columns: int, dtype: np.dtype[Any]) -> Iterator[Add]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(f"Parquet needs the package pyarrow: {INSTALL}") from None
    kind = pa.list_(pa.from_numpy_dtype(dtype), n_columns)
    schema = pa.schema([("text", pa.string()), ("vector", kind)])
    with pq.ParquetWriter(place, schema) as file:

        def add(texts: Any, vectors: Any) -> None:
            if not isinstance(texts, pa.Array):
                texts = pa.array(texts, pa.string())
            numbers = pa.array(np.ascontiguousarray(vectors, dtype).reshape(-1))
            rows = pa.FixedSizeListArray.from_arrays(numbers, n_columns)
            file.write(pa.record_batch([texts.cast(pa.string()), rows], schema))

        yield add


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
