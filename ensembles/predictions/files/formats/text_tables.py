"""CSV and TSV files of predictions, read in blocks and written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from csv import Error, reader
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles.file_signatures import check_text
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

DELIMITERS = (",", ";", "\t", "|")
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-", ".")
BEGINNING = 1 << 20  # bytes in which the first line must end
SUM_TOLERANCE = 0.01  # of the probabilities of a row, for a file without a header
DECIMAL_COMMA = re.compile(r"\s*-?\d+,\d+\s*")
# Messages of the parser; the first line is the header.
FIELDS = re.compile(
    r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+): (.*)"
)
VALUE = re.compile(r"In CSV column #(\d+): Row #(\d+): CSV conversion error to (.*)")
RECODE = "iconv -f CP1252 -t UTF-8 FILE > NEW converts a file that Windows saved"
MARK = b"\xef\xbb\xbf"


class Dialect(NamedTuple):
    """How the fields of a text table are separated."""

    delimiter: str
    names: list[str]
    decimal_point: str = "."


def _write(path: Path, ids: Sequence[str], delimiter: str) -> Iterator[AddRows]:
    is_first = True
    with path.open("wb") as file:

        def add(frame: Any) -> None:
            nonlocal is_first
            frame.write_csv(file, include_header=is_first, separator=delimiter)
            is_first = False

        yield add


def _write_csv(path: Path, ids: Sequence[str]) -> Iterator[AddRows]:
    return _write(path, ids, ",")


def _write_tsv(path: Path, ids: Sequence[str]) -> Iterator[AddRows]:
    return _write(path, ids, "\t")


@register(PREDICTION_FORMATS, suffixes=(".csv", ".txt"), write=_write_csv)
def csv(path: Path) -> PredictionTable:
    """Columns of a CSV file with a header, separated by comma, ``;``, tab or ``|``.

    Numbers of files with ``;`` may have a decimal comma.

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
        If the file is not UTF-8 text, or has no header.
    ImportError
        If polars or pyarrow is not installed.
    """
    return _text_table(path, DELIMITERS)


@register(PREDICTION_FORMATS, suffixes=(".tsv", ".tab"), write=_write_tsv)
def tsv(path: Path) -> PredictionTable:
    """Columns of a TSV file with a header, separated by tabs.

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
        If the file is not UTF-8 text, or has no header.
    ImportError
        If polars or pyarrow is not installed.
    """
    return _text_table(path, ("\t",))


def _text_table(path: Path, delimiters: Sequence[str]) -> PredictionTable:
    import_polars(path)
    dialect = _dialect(path, delimiters)
    read = partial(_read, path, dialect)
    text = next(_read(path, dialect, dialect.names, ()), None)
    if text is None:
        raise ValueError(f"{path} must have rows after its header, found none")
    text = text.head(HEAD)
    numbers = _number_names(text, dialect.decimal_point)
    table = PredictionTable(path, dialect.names, numbers, text, read)
    _check_header(table)
    head = _numbers_of(text, numbers, dialect.decimal_point)
    return PredictionTable(path, dialect.names, numbers, head, read)


def _dialect(path: Path, delimiters: Sequence[str]) -> Dialect:
    """Delimiter and names from the first line, decimal point from the second."""
    with open(open_regular(path), "rb") as file:
        beginning = file.read(BEGINNING)
    if not beginning.strip():
        raise ValueError(f"{path} must have a header and rows, but it is empty")
    check_text(beginning, str(path))
    lines = beginning.removeprefix(MARK).splitlines()
    if len(lines) == 1 and len(beginning) == BEGINNING:
        raise ValueError(
            f"{path} must have a header of at most {BEGINNING} bytes, found a longer "
            "line; a row must be a sample, and a column a class or a quantile"
        )
    if len(lines) == 1:
        raise ValueError(f"{path} must have rows after its header, found none")
    try:
        header, second = lines[0].decode(), lines[1].decode(errors="replace")
        delimiter = max(delimiters, key=header.count)
        names = next(reader([header], delimiter=delimiter, strict=True), [])
        fields = next(reader([second], delimiter=delimiter), [])
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} line 1 is not utf-8: {error.reason}; {RECODE}"
        ) from None
    except Error as error:
        raise ValueError(f"{path} line 1 must be a header: {error}") from None
    names = [name.strip() for name in names]
    check_names(path, names)
    uses_comma = delimiter == ";" and any(map(DECIMAL_COMMA.fullmatch, fields))
    return Dialect(delimiter, names, "," if uses_comma else ".")


def _read(
    path: Path, dialect: Dialect, texts: Sequence[str], numbers: Sequence[str]
) -> Iterator[Any]:
    """Blocks of rows; errors of the parser name the row."""
    import polars as pl
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    types = {name: pa.string() for name in texts}
    types |= {name: pa.float64() for name in numbers}
    try:
        with open(open_regular(path), "rb") as file:
            # Small first blocks would not make it faster: the parser reads ahead.
            blocks = arrow_csv.open_csv(
                file,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,  # errors then have the number of the row
                    block_size=BLOCK,
                    column_names=dialect.names,
                    skip_rows=1,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=dialect.delimiter, newlines_in_values=True
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=types,
                    include_columns=list(types),
                    null_values=MISSING,
                    decimal_point=dialect.decimal_point,
                ),
            )
            for block in blocks:
                frame: Any = pl.from_arrow(block)
                frame.columns = block.schema.names  # polars renames an empty name
                yield frame
    except pa.ArrowException as error:
        raise _explain(path, str(error), dialect.names) from None


def _explain(path: Path, message: str, names: Sequence[str]) -> ValueError:
    """Error of the parser with the names of file and column."""
    message = " ".join(message.split())
    if fields := FIELDS.match(message):
        line, n_expected, n_found, text = fields.groups()
        return ValueError(
            f"{path} line {line} must have {n_expected} fields, as its header has, "
            f"found {n_found}: {text[:80]!r}"
        )
    if value := VALUE.match(message):
        column, line, reason = value.groups()
        where = f"{path} line {line}, column {names[int(column)]!r}"
        if "UTF8" in reason:
            return ValueError(f"{where} must be utf-8; {RECODE}")
        return ValueError(
            f"{where} must be a number, found {reason.split('value ')[-1]}"
        )
    return ValueError(f"{path} is not a table: {message[:300]}")


def _number_names(text: Any, decimal_point: str) -> frozenset[str]:
    """Columns whose first values are numbers or missing."""
    return frozenset(
        name
        for name in text.columns
        if _is_number_column(text[name].to_list(), decimal_point)
    )


def _is_number_column(values: list[str], decimal_point: str) -> bool:
    present = [value for value in values if value.strip() not in MISSING]
    return all(_is_number(value.replace(decimal_point, ".")) for value in present)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return "_" not in value


def _numbers_of(text: Any, numbers: frozenset[str], decimal_point: str) -> Any:
    """Frame with the columns in ``numbers`` as float64."""
    import polars as pl

    columns = {}  # a list of series would rename an empty name
    for name in text.columns:
        values = text[name]
        if name in numbers:
            floats = [
                None if v.strip() in MISSING else float(v.replace(decimal_point, "."))
                for v in values.to_list()
            ]
            values = pl.Series(name, floats, pl.Float64)
        columns[name] = values
    return pl.DataFrame(columns)


def _check_header(table: PredictionTable) -> None:
    """Raise if the first line is a row of predictions instead of names."""
    if not all(map(_is_number, table.names)):
        return
    first = np.array(table.names, float)
    # Class labels are whole numbers, levels of quantiles have no sum of 1 in all rows.
    is_whole = bool((first == np.round(first)).all())
    if is_whole and len(first) > 1:
        return
    is_level = bool(((first > 0) & (first < 1)).all())
    second = [float(v) for v in table.head.row(0) if _is_number(v)]
    sums_to_one = (
        abs(first.sum() - 1) < SUM_TOLERANCE and abs(sum(second) - 1) < SUM_TOLERANCE
    )
    if not is_level or sums_to_one or len(first) == 1:
        raise ValueError(
            f"{table.path} must begin with the names of its columns, found the "
            f"numbers {', '.join(table.names[:4])}; add a header, such as id,0,1"
        )
