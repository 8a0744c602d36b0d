"""Parquet files of predictions, read in blocks and written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

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

ERRORS = (OSError, UnicodeDecodeError)
VALUE = 16  # bytes of a value in memory, about


def _write(path: Path, ids: Sequence[str]) -> Iterator[AddRows]:
    import pyarrow.parquet as pq

    writer: Any = None

    def add(frame: Any) -> None:
        nonlocal writer
        table = frame.to_arrow()
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))

    try:
        yield add
    finally:
        if writer is not None:
            writer.close()


@register(PREDICTION_FORMATS, suffixes=(".parquet", ".pq"), write=_write)
def parquet(path: Path) -> PredictionTable:
    """Columns of a Parquet file.

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
        If the file is damaged.
    ImportError
        If polars or pyarrow is not installed.
    """
    import_polars(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.close(open_regular(path))  # a pipe would block
    try:
        file = pq.ParquetFile(path)
        schema, n_rows = file.schema_arrow, file.metadata.num_rows
        names = list(schema.names)
    except FileNotFoundError:
        raise
    except (*ERRORS, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    check_names(path, names)
    numbers = frozenset(field.name for field in schema if _is_number(field.type))
    texts = [name for name in names if name not in numbers]
    for name in texts:
        _check_text(path, name, schema.field(name).type)
    head = next(_blocks(path, texts, list(numbers), n_rows, HEAD), None)
    if head is None:
        raise ValueError(f"{path} must have rows, found none")
    read = partial(_blocks, path, n_rows=n_rows)
    return PredictionTable(
        path, names, numbers, head.select(names).head(HEAD), read, n_rows
    )


def _is_number(dtype: Any) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype)
    )


def _check_text(path: Path, name: str, dtype: Any) -> None:
    import pyarrow.types as types

    inner = dtype.value_type if types.is_dictionary(dtype) else dtype
    is_text = any(
        test(inner)
        for test in (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_temporal,
            types.is_boolean,
            types.is_null,
            types.is_integer,  # of a dictionary
        )
    )
    if not is_text:
        raise ValueError(
            f"{path}: column {name!r} must contain numbers, text or dates, found "
            f"{dtype}; write each part of it as a column of its own"
        )


def _blocks(
    path: Path,
    texts: Sequence[str],
    numbers: Sequence[str],
    n_rows: int,
    n_block: int | None = None,
) -> Iterator[Any]:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*texts, *numbers]
    size = n_block or max(1, BLOCK // (VALUE * max(1, len(names))))
    n_read = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(size, columns=names):
                n_read += len(batch)
                batch.validate(full=True)  # polars trusts text to be UTF-8
                frame = pl.DataFrame(
                    {name: pl.from_arrow(batch.column(name)) for name in names}
                )
                yield frame.select(
                    *(pl.col(name).cast(pl.String) for name in texts),
                    *(pl.col(name).cast(pl.Float64) for name in numbers),
                )
    except FileNotFoundError:
        raise
    except (*ERRORS, pl.exceptions.PolarsError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    if n_read != n_rows:
        raise ValueError(
            f"{path} is damaged: its footer announces {n_rows} rows, found {n_read}"
        )


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:300]
    return ValueError(f"{path} is not a complete Parquet file: {reason}")
