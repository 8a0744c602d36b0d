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
WAY_OUT = "column='NAME' chooses one"


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
    marks = dict.fromkeys((first, *DELIMITERS))
    fields = {mark: _fields(lines[0] if lines else "", mark) for mark in marks}
    if column is not None and column.isdecimal() and column not in fields[first]:
        counts = {mark: {len(_fields(line, mark)) for line in lines} for mark in marks}
        steady = [mark for mark in marks if len(counts[mark]) == 1]
        fits = [mark for mark in steady if len(fields[mark]) >= max(2, int(column))]
        is_told = len(lines) > 1 or len(fields[first]) < int(column)
        return next(iter(fits), first) if is_told else first
    if column is not None:
        return next((mark for mark in fields if column in fields[mark]), first)
    return next((mark for mark in fields if len(fields[mark]) > 1), first)


def _fields(line: str, mark: str) -> list[str]:
    try:
        return next(_reader([line], mark), [])
    except csv.Error:  # the reader of the table raises it again, with the line number
        return [line]


def _reader(lines: Iterable[str], mark: str, *, strict: bool = False) -> Any:
    if mark == "	":  # TSV has no quoting: quotation marks are part of a field
        return csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE, strict=strict)
    return csv.reader(lines, delimiter=mark, strict=strict)


def table(first: str) -> Callable[..., Iterator[list[str]]]:
    """Return a reader of tables for which ``first`` is the preferred delimiter."""

    def read(
        lines: Iterator[list[str]], name: str, column: str | None, facts: Facts
    ) -> Iterator[list[str]]:
        every = (line for some in lines for line in some)
        head = list(islice(every, HEAD))
        if head and (found := SEPARATOR.fullmatch(head[0])):  # written by Excel
            mark, head = found[1], head[1:]
        else:
            mark = delimiter_of(head, column, first=first)
        facts["delimiter"] = mark
        rows = _reader(chain(head, every), mark, strict=True)
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
    place, is_header = _place(header, name, column)
    facts["column"] = header[place] if is_header else place + 1
    facts["columns"] = header if is_header else len(header)
    texts = [] if is_header else [header[place]]
    is_steady = is_header or place == len(header) - 1  # else more columns may follow
    size = 0
    for row in rows:
        if not row:
            continue
        if len(row) <= place:
            raise ValueError(
                f"{name} line {rows.line_num} must have a field {place + 1}, where "
                f"the texts are, found {len(row)}"
            )
        if len(row) > len(header) and is_steady and any(row[len(header) :]):
            raise ValueError(
                f"{name} line {rows.line_num} must have {len(header)} fields, as line "
                f"1 has, found {len(row)}: a text that holds the delimiter "
                f"{facts['delimiter']!r} must be between quotation marks"
            )
        texts.append(row[place])
        size += len(row[place]) + 1
        if size >= STEP:
            yield texts
            texts, size = [], 0
    yield texts


def _place(header: Sequence[str], name: str, column: str | None) -> tuple[int, bool]:
    """Index of the text column, and whether the first row is a header."""
    if column is not None and column not in header and column.isdecimal():
        if not 1 <= int(column) <= len(header):
            raise ValueError(f"{name} has {len(header)} columns, found column={column}")
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
            f"{name} has the columns {', '.join(map(repr, columns))}; {WAY_OUT}"
        )
    if column not in columns:
        raise ValueError(
            f"{name} has no column {column!r}, found {', '.join(map(repr, columns))}"
        )
    return column
