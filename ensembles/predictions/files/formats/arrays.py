"""NumPy arrays and archives of predictions, read in blocks without pickles.

A ``.npy`` file has a row for each sample and a column for each class, quantile or
target. A ``.npz`` file has such an array, one-dimensional arrays with the identifiers
of its rows, and optionally ``columns`` or ``classes``, with the names of its columns.
"""

from __future__ import annotations

import math
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from ensembles._typing import Array
from ensembles.predictions.files.formats.table import (
    BLOCK,
    HEAD,
    PREDICTION_FORMATS,
    AddRows,
    PredictionTable,
    check_names,
    import_polars,
)
from ensembles.registry import register
from ensembles.regular_files import open_regular

COLUMN_NAMES = ("columns", "classes")
PREDICTIONS = "predictions"
HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
LARGEST_BY_COLUMN = 1 << 30  # bytes of an archive's array that is read at once
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    OSError,  # of a damaged offset
)
# Errors of the parser of headers, which are Python literals.
INVALID_HEADER = (
    *(ValueError, KeyError, SyntaxError, TypeError, AttributeError),
    *(TokenError, RecursionError, MemoryError),
)


class StoredArray(NamedTuple):
    """An array in a file: its header, and the entry of an archive that it is in."""

    path: Path
    entry: str | None
    shape: tuple[int, ...]
    by_column: bool
    dtype: np.dtype[Any]

    @property
    def title(self) -> str:
        """Name for messages."""
        if self.entry is None:
            return str(self.path)
        return f"{self.path}: array {self.entry.removesuffix('.npy')!r}"

    @property
    def n_columns(self) -> int:
        """Number of columns; 1 for one dimension."""
        return self.shape[1] if len(self.shape) > 1 else 1

    def blocks(self, n_block: int) -> Iterator[Array]:
        """Rows of the array, in blocks of shape (n_block, n_columns)."""
        n_rows, n_columns = self.shape[0], self.n_columns
        with _opened(self.path, self.entry) as file:
            _read_header(file)
            if self.by_column and n_columns > 1:
                yield from _blocks_by_column(self, file, n_block)
                return
            for start in range(0, n_rows, n_block):
                n = min(n_block, n_rows - start)
                content = file.read(n * n_columns * self.dtype.itemsize)
                yield np.frombuffer(content, self.dtype).reshape(n, n_columns)


def _write_npy(path: Path, ids: Sequence[str]) -> Iterator[AddRows]:
    with path.open("w+b") as file:
        yield from _append_rows(file, ids)


def _append_rows(file: IO[bytes], ids: Sequence[str]) -> Iterator[AddRows]:
    n_rows, n_columns = 0, 0

    def write_header() -> None:
        # NumPy pads the header so that the length of the first axis can grow.
        file.seek(0)
        header = {"descr": "<f8", "fortran_order": False, "shape": (n_rows, n_columns)}
        npy_format.write_array_header_1_0(file, header)

    def add(frame: Any) -> None:
        nonlocal n_rows, n_columns
        values = frame.drop(ids).to_numpy().astype("<f8")
        n_columns = values.shape[1]
        n_rows += len(values)
        file.write(np.ascontiguousarray(values).data)

    write_header()
    yield add
    write_header()


def _write_npz(path: Path, ids: Sequence[str]) -> Iterator[AddRows]:
    """Collect the identifiers in memory and the predictions in a temporary file."""
    parts: list[Any] = []
    columns: list[str] = []
    with tempfile.TemporaryFile() as spooled:
        appending = _append_rows(spooled, ids)
        add_values = next(appending)

        def add(frame: Any) -> None:
            columns[:] = [name for name in frame.columns if name not in ids]
            parts.append(frame.select(ids))
            add_values(frame)

        yield add
        next(appending, None)  # completes the header
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ids:
                values = np.concatenate([part[name].to_numpy() for part in parts])
                _write_entry(archive, name, values)
            _write_entry(archive, COLUMN_NAMES[0], np.array(columns))
            spooled.seek(0)
            with archive.open(f"{PREDICTIONS}.npy", "w", force_zip64=True) as entry:
                while content := spooled.read(BLOCK):
                    entry.write(content)


def _write_entry(archive: zipfile.ZipFile, name: str, values: Array) -> None:
    if values.dtype.hasobject:
        values = values.astype(str)
    with archive.open(f"{name}.npy", "w") as entry:
        npy_format.write_array(entry, values, allow_pickle=False)


@register(PREDICTION_FORMATS, suffixes=(".npy",), write=_write_npy)
def npy(path: Path) -> PredictionTable:
    """Columns of a NumPy array of one or two dimensions, which have no names.

    Parameters
    ----------
    path : Path
        Path of the file.

    Returns
    -------
    PredictionTable

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the file is damaged, has fewer bytes than its header announces, or contains
        Python objects.
    ImportError
        If polars or pyarrow is not installed.
    """
    import_polars(path)
    with open(open_regular(path), "rb") as file:
        n_bytes = file.seek(0, 2)
        file.seek(0)
        array = _checked(path, None, file, n_bytes)
    names = list(map(str, range(min(array.n_columns, 1 << 20))))
    return _table(path, {}, array, names, has_header=False)


@register(PREDICTION_FORMATS, suffixes=(".npz",), write=_write_npz)
def npz(path: Path) -> PredictionTable:
    """Columns of the arrays of a NumPy archive.

    Parameters
    ----------
    path : Path
        Path of the archive.

    Returns
    -------
    PredictionTable

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the archive is damaged, contains Python objects, or has arrays of several
        lengths.
    ImportError
        If polars or pyarrow is not installed.
    """
    import_polars(path)
    arrays = _entries(path)
    by_rank = {
        n: {k: a for k, a in arrays.items() if len(a.shape) == n} for n in (1, 2)
    }
    if len(by_rank[2]) > 1:
        raise ValueError(
            f"{path} must have one array of two dimensions, found "
            f"{', '.join(map(repr, by_rank[2]))}; save the predictions of each member "
            "as a file of its own"
        )
    columns, array = by_rank[1], next(iter(by_rank[2].values()), None)
    names, has_header = list[str](), True
    if array is not None:
        key = next((name for name in COLUMN_NAMES if name in columns), None)
        names = list(map(str, range(array.n_columns)))
        if key is None:
            has_header = False
        else:
            names = _column_names(columns.pop(key), array)
    return _table(path, columns, array, names, has_header=has_header)


def _table(
    path: Path,
    columns: dict[str, StoredArray],
    array: StoredArray | None,
    names: list[str],
    *,
    has_header: bool,
) -> PredictionTable:
    """Table of columns with names, and of a matrix whose columns are ``names``."""
    check_names(path, [*columns, *names])
    arrays = [*columns.values(), *([] if array is None else [array])]
    lengths = {stored.title: stored.shape[0] for stored in arrays}
    if len(set(lengths.values())) > 1:
        lines = ", ".join(f"{title} has {n}" for title, n in lengths.items())
        raise ValueError(f"arrays of {path} must have the same number of rows: {lines}")
    n_rows = next(iter(lengths.values()))
    if not n_rows:
        raise ValueError(f"{path} must have rows, found none")
    # Beside a matrix, arrays of one dimension are the identifiers of its rows.
    numeric = {
        k for k, a in columns.items() if a.dtype.kind in "biuf" and array is None
    }
    if array is not None and array.dtype.kind in "biuf":
        numeric.update(names)
    read = partial(_read, columns, array, names)
    all_names = [*columns, *names]
    texts = [name for name in all_names if name not in numeric]
    head = next(read(texts, [n for n in all_names if n in numeric], n_block=HEAD))
    return PredictionTable(
        path,
        all_names,
        frozenset(numeric),
        head.select(all_names),
        read,
        n_rows,
        has_header,
    )


def _read(
    columns: dict[str, StoredArray],
    array: StoredArray | None,
    names: list[str],
    texts: Sequence[str],
    numbers: Sequence[str],
    n_block: int | None = None,
) -> Iterator[Any]:
    """Blocks of the same rows of several arrays."""
    import polars as pl

    used = {name: columns[name] for name in (*texts, *numbers) if name in columns}
    streams = dict(used)
    if array is not None and set(names) & {*texts, *numbers}:
        streams[PREDICTIONS if PREDICTIONS not in used else ""] = array
    size = sum(a.n_columns * a.dtype.itemsize for a in streams.values())
    n_block = n_block or max(1, BLOCK // max(1, size))
    path = next(iter(streams.values())).path
    try:
        for parts in zip(*(a.blocks(n_block) for a in streams.values()), strict=True):
            values = dict(zip(used, (part[:, 0] for part in parts), strict=False))
            if len(streams) > len(used):
                values |= dict(zip(names, parts[-1].T, strict=True))
            yield pl.DataFrame(
                {
                    n: pl.Series(_as_text(values[n], path), dtype=pl.String)
                    for n in texts
                }
                | {n: pl.Series(values[n].astype(np.float64)) for n in numbers}
            )
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _as_text(values: Array, path: Path) -> list[str]:
    if values.dtype.kind != "S":
        return [str(value) for value in values.tolist()]
    try:
        return [value.decode() for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must have text in utf-8: {error}") from None


@contextmanager
def _opened(path: Path, entry: str | None) -> Iterator[IO[bytes]]:
    with open(open_regular(path), "rb") as file:
        if entry is None:
            yield file
            return
        with zipfile.ZipFile(file) as archive, archive.open(entry) as stored:
            yield stored


def _entries(path: Path) -> dict[str, StoredArray]:
    """Arrays of an archive by name, from their headers."""
    arrays = {}
    try:
        with (
            open(open_regular(path), "rb") as opened,
            zipfile.ZipFile(opened) as archive,
        ):
            infos = [i for i in archive.infolist() if i.filename.endswith(".npy")]
            for info in infos:
                with archive.open(info) as file:
                    stored = _checked(path, info.filename, file, info.file_size)
                name = info.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"{path} has the array {name!r} twice")
                arrays[name] = stored
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        reason = f"{error!s:.100}"
        raise ValueError(f"{path} is not a complete NumPy archive: {reason}") from None
    if not arrays:
        raise ValueError(f"{path} must contain arrays, found none")
    return arrays


def _checked(
    path: Path, entry: str | None, file: IO[bytes], n_bytes: int
) -> StoredArray:
    """Header of an array, compared with the bytes that follow it."""
    title = StoredArray(path, entry, (0,), False, np.dtype("f8")).title
    try:
        shape, by_column, dtype = _read_header(file)
    except INVALID_HEADER as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{title} is not a NumPy array: {reason}") from None
    if dtype.hasobject:
        raise ValueError(
            f"{title} contains Python objects, and loading them could run code; save "
            "numbers with array.astype(float), text with array.astype(str)"
        )
    if dtype.kind not in "biufUSM" or dtype.subdtype:
        raise ValueError(
            f"{title} must contain numbers or text, found dtype {dtype}; save each "
            "column as an array of its own in an npz file"
        )
    if not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) not in (
        1,
        2,
    ):
        raise ValueError(
            f"{title} must have the shape (n_samples,) or (n_samples, n_columns), "
            f"found {shape}"
        )
    n_expected = math.prod(shape) * dtype.itemsize
    n_found = n_bytes - file.tell()
    if n_expected != n_found:
        raise ValueError(
            f"{title} of shape {shape} and dtype {dtype} needs {n_expected} bytes "
            f"after its header, found {n_found}; save it again"
        )
    return StoredArray(path, entry, shape, by_column, dtype)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the format is not supported")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        header: Any = HEADERS[version](file)
    return tuple(header[0]), bool(header[1]), np.dtype(header[2])


def _blocks_by_column(
    array: StoredArray, file: IO[bytes], n_block: int
) -> Iterator[Array]:
    """Blocks of rows of an array in Fortran order."""
    n_rows, n_columns = array.shape
    if array.entry is None:
        offset = file.tell()
        mapped: Array = np.memmap(
            array.path, array.dtype, "r", offset, array.shape, order="F"
        )
    else:
        n_bytes = n_rows * n_columns * array.dtype.itemsize
        if n_bytes > LARGEST_BY_COLUMN:
            raise ValueError(
                f"{array.title} is in Fortran order and has {n_bytes} bytes; save it "
                "with numpy.ascontiguousarray(array)"
            )
        content = np.frombuffer(file.read(n_bytes), array.dtype)
        mapped = content.reshape(n_columns, n_rows).T
    for start in range(0, n_rows, n_block):
        yield np.ascontiguousarray(mapped[start : start + n_block])


def _column_names(stored: StoredArray, array: StoredArray) -> list[str]:
    """Names of the columns of a matrix, which an array of the archive has."""
    if stored.shape[0] != array.n_columns:
        raise ValueError(
            f"{stored.title} must name the {array.n_columns} columns of "
            f"{array.title}, found {stored.shape[0]} names"
        )
    (names,) = stored.blocks(max(1, stored.shape[0]))
    return [name.removesuffix(".0") for name in _as_text(names[:, 0], stored.path)]
