"""Readers of the text column of CSV and TSV tables, with delimiter detection."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

# How a file is read, for display: ``column``, ``columns``, ``delimiter``.
Facts = dict[str, Any]
STEP = 4 << 20  # characters of texts in a batch
HEAD = 20  # lines used to detect the delimiter
DELIMITERS = (",", ";", "\t", "|")
SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)
GUESSES = ("text", "sentence")  # default columns
HINT = "pass column='NAME' (--column NAME) to select one"


def delimiter_of(lines: Sequence[str], column: str | None, *, first: str = ",") -> str:
    """Detect the delimiter of a table from its first lines.

    Parameters
    ----------
    lines : sequence of str
        First lines of the table. Only the first is used, unless ``column`` is a number.
    column : str or None
        Name or 1-based number of a column that the table must have; None accepts any
        delimiter that splits the first line.
    first : str, default=","
        Preferred delimiter. Another one is returned if this one does not split the
        line, or gives no such column.

    Returns
    -------
    str
        The delimiter, ``first`` if none fits.
    """
    delimiters = dict.fromkeys((first, *DELIMITERS))
    fields = {
        delimiter: _fields(lines[0] if lines else "", delimiter)
        for delimiter in delimiters
    }
    if column is not None and column.isdecimal() and column not in fields[first]:
        counts = {
            delimiter: {len(_fields(line, delimiter)) for line in lines}
            for delimiter in delimiters
        }
        consistent = [
            delimiter for delimiter in delimiters if len(counts[delimiter]) == 1
        ]
        matching = [
            delimiter
            for delimiter in consistent
            if len(fields[delimiter]) >= max(2, int(column))
        ]
        is_certain = len(lines) > 1 or len(fields[first]) < int(column)
        return next(iter(matching), first) if is_certain else first
    if column is not None:
        return next(
            (delimiter for delimiter in fields if column in fields[delimiter]), first
        )
    return next(
        (delimiter for delimiter in fields if len(fields[delimiter]) > 1), first
    )


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(_reader([line], delimiter), [])
    except csv.Error:  # the reader of the table raises it again, with the line number
        return [line]


def _reader(lines: Iterable[str], delimiter: str, *, strict: bool = False) -> Any:
    if delimiter == "	":  # TSV has no quoting: quotation marks are part of a field
        return csv.reader(
            lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=strict
        )
    return csv.reader(lines, delimiter=delimiter, strict=strict)


def table(first: str) -> Callable[..., Iterator[list[str]]]:
    """Return a reader of tables for which ``first`` is the preferred delimiter."""

    def read(
        lines: Iterator[list[str]], name: str, column: str | None, facts: Facts
    ) -> Iterator[list[str]]:
        all_lines = (line for block in lines for line in block)
        head = list(islice(all_lines, HEAD))
        if head and (separator := SEPARATOR.fullmatch(head[0])):  # written by Excel
            delimiter, head = separator[1], head[1:]
        else:
            delimiter = delimiter_of(head, column, first=first)
        facts["delimiter"] = delimiter
        rows = _reader(chain(head, all_lines), delimiter, strict=True)
        try:
            yield from _cells(rows, name, column, facts)
        except csv.Error as error:
            raise ValueError(f"{name} line {rows.line_num}: {error}") from None

    return read


def _cells(
    rows: Any, name: str, column: str | None, facts: Facts
) -> Iterator[list[str]]:
    header = next(rows, None)
    if header is None:
        return
    index, is_header = _column_index(header, name, column)
    facts["column"] = header[index] if is_header else index + 1
    facts["columns"] = header if is_header else len(header)
    texts = [] if is_header else [header[index]]
    is_fixed_width = (
        is_header or index == len(header) - 1
    )  # else more columns may follow
    size = 0
    for row in rows:
        if not row:
            continue
        if len(row) <= index:
            raise ValueError(
                f"{name} line {rows.line_num} must have a field {index + 1} with "
                f"the text, found {len(row)} fields"
            )
        if len(row) > len(header) and is_fixed_width and any(row[len(header) :]):
            raise ValueError(
                f"{name} line {rows.line_num} must have {len(header)} fields, as line "
                f"1 has, found {len(row)}: quote texts that contain the delimiter "
                f"{facts['delimiter']!r}"
            )
        texts.append(row[index])
        size += len(row[index]) + 1
        if size >= STEP:
            yield texts
            texts, size = [], 0
    yield texts


def _column_index(
    header: Sequence[str], name: str, column: str | None
) -> tuple[int, bool]:
    """Index of the text column, and whether the first row is a header."""
    if column is not None and column not in header and column.isdecimal():
        if not 1 <= int(column) <= len(header):
            raise ValueError(
                f"column must be from 1 to {len(header)} in {name}, found {column}"
            )
        return int(column) - 1, False
    return list(header).index(choose_column(header, name, column)), True


def choose_column(columns: Sequence[str], name: str, column: str | None) -> str:
    """Choose the text column.

    Parameters
    ----------
    columns : sequence of str
        Names of all columns.
    name : str
        Name of the file, for messages.
    column : str or None
        Name of the column. None takes the only column, or else "text" or "sentence".

    Returns
    -------
    str
        Name of the column.

    Raises
    ------
    ValueError
        If the column does not exist, or ``column`` is None and no default applies.
    """
    if column is None:
        if len(columns) == 1:
            return columns[0]
        for guess in GUESSES:
            if guess in columns:
                return guess
        raise ValueError(
            f"{name} has the columns {', '.join(map(repr, columns))}; {HINT}"
        )
    if column not in columns:
        raise ValueError(
            f"{name} has no column {column!r}, found {', '.join(map(repr, columns))}"
        )
    return column
