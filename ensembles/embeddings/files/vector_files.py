"""Atomic writers of vector files: ``.npy``, Parquet and safetensors."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.atomic_io import atomic_output, check_absent
from ensembles.embeddings.files.binary_files import INSTALL
from ensembles.embeddings.tokenization.texts import decode_utf8

# Function that appends texts and their vectors.
Add = Callable[[Any, Any], None]
SUFFIXES = (".npy", ".parquet")


def check_output(path: Path, *, force: bool) -> None:
    """Raise if `open_vector_writer` cannot write to a path.

    Parameters
    ----------
    path : Path
        Path of the output.
    force : bool
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        If the suffix is not ``.npy`` or ``.parquet``.
    FileExistsError
        If ``path`` exists and not ``force``, or is a directory.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"path must end in {' or '.join(SUFFIXES)}, found {str(path)!r}"
        )
    check_absent(path, folder=False, force=force)


def save_tensors(tensors: dict[str, Any], path: Path) -> None:
    """Write a safetensors file with the default permissions of a new file.

    Parameters
    ----------
    tensors : dict of str to ndarray
        Tensors by name.
    path : Path
        File to write; an existing one is overwritten.
    """
    from safetensors.numpy import save_file

    path.touch()
    mode = path.stat().st_mode  # safetensors 0.8 denies others read access
    save_file(tensors, path, {"format": "np"})
    path.chmod(stat.S_IMODE(mode))


@contextmanager
def open_vector_writer(
    path: Path, n_columns: int, dtype: Any, *, force: bool
) -> Iterator[Add]:
    """Open a vector file for appending batches; it is written atomically.

    Parameters
    ----------
    path : Path
        ``.npy`` holds an array of shape (n_texts, n_columns), ``.parquet`` the columns
        ``text`` and ``vector``.
    n_columns : int
        Number of columns of the vectors.
    dtype : numpy dtype
        Data type of the vectors in the file.
    force : bool
        Whether an existing file is replaced.

    Yields
    ------
    callable (texts, vectors)
        Appends a batch of rows.

    Raises
    ------
    ValueError
        If the suffix is not ``.npy`` or ``.parquet``.
    FileExistsError
        If ``path`` exists and not ``force``, or is a directory.
    """
    check_output(path, force=force)
    with atomic_output(path, folder=False, force=force) as temporary:
        if path.suffix == ".npy":
            with npy_writer(temporary, n_columns, dtype) as add_vectors:
                yield lambda texts, vectors: add_vectors(vectors)
        else:
            yield from _parquet(temporary, n_columns, np.dtype(dtype))


@contextmanager
def npy_writer(
    path: Path, n_columns: int, dtype: Any
) -> Iterator[Callable[[Any], None]]:
    """Open an array in NumPy's format for appending rows.

    Parameters
    ----------
    path : Path
        File to write; an existing one is overwritten.
    n_columns : int
        Number of columns.
    dtype : numpy dtype
        Data type of the array.

    Yields
    ------
    callable (rows)
        Appends rows.
    """
    dtype, n_rows = np.dtype(dtype), 0
    with path.open("w+b") as file:

        def write_header() -> None:
            # NumPy pads the header so that the length of the first axis can grow.
            file.seek(0)
            header = {"descr": dtype.str, "fortran_order": False}
            np.lib.format.write_array_header_1_0(
                file, {**header, "shape": (n_rows, n_columns)}
            )

        def add(rows: Any) -> None:
            nonlocal n_rows
            n_rows += len(rows)
            file.write(np.ascontiguousarray(rows, dtype).data)

        write_header()
        yield add
        write_header()


def _parquet(temporary: Path, n_columns: int, dtype: np.dtype[Any]) -> Iterator[Add]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(f"Parquet needs the package pyarrow: {INSTALL}") from None
    vector_type = pa.list_(pa.from_numpy_dtype(dtype), n_columns)
    schema = pa.schema([("text", pa.string()), ("vector", vector_type)])
    with pq.ParquetWriter(temporary, schema) as file:

        def add(texts: Any, vectors: Any) -> None:
            if not isinstance(texts, pa.Array):
                texts = pa.array(decode_utf8(list(texts)), pa.string())
            values = pa.array(np.ascontiguousarray(vectors, dtype).reshape(-1))
            rows = pa.FixedSizeListArray.from_arrays(values, n_columns)
            file.write(pa.record_batch([texts.cast(pa.string()), rows], schema))

        yield add
