"""Readers of text files in batches, for files larger than memory."""

from __future__ import annotations

import codecs
import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from ensembles.embeddings.files.binary_files import INSTALL
from ensembles.embeddings.files.tables import Facts, choose_column, table
from ensembles.file_signatures import SAMPLE, check_text

STEP = 4 << 20  # bytes in a batch of lines; at least one line
ROWS = 8192  # rows in a batch of Parquet
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".tab": "tsv",
    ".parquet": "parquet",
}
# Suffixes of files that must not be read as lines, with a hint for each.
OTHERS = {
    ".json": "pass kind='jsonl' (--kind jsonl) for one object per line, which "
    "jq -c '.[]' makes of an array, or kind='lines' (--kind lines) for plain lines",
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "save the sheet as CSV"),
    **dict.fromkeys((".feather", ".arrow"), "write it as Parquet"),
    **dict.fromkeys((".pdf", ".doc", ".docx"), "save it as plain text"),
}
FORMATS = ("lines", "csv", "tsv", "jsonl", "parquet")


def to_list(texts: Any) -> list[Any]:
    """Convert the texts of a batch to a list."""
    return texts if isinstance(texts, list) else list(texts.to_pylist())


class Batch(NamedTuple):
    """Batch of texts, with its size in the file and the format of the file.

    Attributes
    ----------
    texts : list of str or pyarrow.Array
        Texts of the batch.
    n_bytes : int
        Bytes read for the batch, for progress; an estimate for Parquet.
    facts : dict
        Format of the file: ``kind``, and for a table also ``column``, ``columns`` (all
        names, or their number if the table has no header) and ``delimiter``.
    """

    texts: Any
    n_bytes: int
    facts: Facts


def read_texts(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    kind: str | None = None,
    column: str | None = None,
    encoding: str = "utf-8",
) -> Iterator[Batch]:
    """Read the texts of a file in batches, in order.

    Parameters
    ----------
    source : path or binary file
        File to read; Parquet requires a path.
    kind : {"lines", "csv", "tsv", "jsonl", "parquet"} or None, default=None
        File format. None infers it from the suffix, "lines" for an unknown suffix. In
        "csv" and "tsv" the delimiter (tab, comma, ``;`` or ``|``) is detected from the
        first lines.
    column : str or None, default=None
        Name of the text column or JSON key, or 1-based number of a column in a table
        without a header. None takes the only column, or else "text" or "sentence".
    encoding : str, default="utf-8"
        ASCII-compatible text encoding, such as "latin-1". Parquet is always UTF-8.

    Yields
    ------
    Batch
        Texts as a list of str, or as a ``pyarrow.Array`` for Parquet.

    Raises
    ------
    ValueError
        If the file is malformed, with the line number, or the column does not exist.
    FileNotFoundError
        If the file does not exist.
    ImportError
        If the file is Parquet and pyarrow is not installed.
    """
    name = str(getattr(source, "name", source))
    kind = kind_of(name) if kind is None else kind
    if kind not in FORMATS:
        raise ValueError(f"kind must be one of {', '.join(FORMATS)}, found {kind!r}")
    encoding = _check_encoding(encoding)
    facts: Facts = {"kind": kind}
    if kind == "parquet":
        yield from _parquet(source, name, column, facts)
        return
    with _open(source) as file:
        n_read = 0

        def decoded_lines() -> Iterator[list[str]]:
            nonlocal n_read
            for block, n_bytes in _decoded(
                file, name, encoding, _shell_command_end(name, kind)
            ):
                n_read += n_bytes
                yield block

        n_yielded, blocks = 0, decoded_lines()
        # Read a first block now: a binary file is reported before errors of its kind.
        first = [block for block in [next(blocks, None)] if block is not None]
        for texts in READERS[kind](chain(first, blocks), name, column, facts):
            yield Batch(texts, n_read - n_yielded, facts)
            n_yielded = n_read


def kind_of(name: str) -> str:
    """Infer the format of a file from its suffix.

    Parameters
    ----------
    name : str
        Name or path of the file.

    Returns
    -------
    {"lines", "csv", "tsv", "jsonl", "parquet"}
        The format, "lines" for an unknown suffix.

    Raises
    ------
    ValueError
        If the suffix is that of an unsupported format, such as ``.xlsx``.
    """
    suffix = Path(name).suffix.lower()
    if suffix in OTHERS:
        raise ValueError(
            f"{name} has the suffix of a file that is not read as lines: "
            f"{OTHERS[suffix]}"
        )
    return SUFFIXES.get(suffix, "lines")


def _check_encoding(encoding: str) -> str:
    """Validate the encoding; "utf-8-sig" becomes "utf-8", as marks are removed."""
    try:
        if codecs.lookup(encoding).name == "utf-8-sig":
            return "utf-8"
        fits = "a\n".encode(encoding) == b"a\n"
    except LookupError:
        fits = False
    if not fits:
        raise ValueError(
            f"encoding must be ASCII-compatible, such as utf-8 or latin-1, found "
            f"{encoding!r}; iconv -f ENCODING -t UTF-8 FILE converts others"
        )
    return encoding


@contextmanager
def _open(source: Any) -> Iterator[IO[bytes]]:
    if hasattr(source, "readlines"):
        yield source
        return
    with open(source, "rb") as file:
        yield file


def _shell_command_end(name: str, kind: str) -> str:
    """End of the shell command that messages suggest to convert a file to text."""
    inner_kind = SUFFIXES.get(Path(Path(name).stem).suffix.lower(), kind)
    kind = inner_kind if kind == "lines" else kind
    if kind == "parquet":
        return "> FILE"
    option = f" --kind {kind}" if kind != "lines" else ""
    return f"> FILE, or into a command that reads - (ensemble embed -{option})"


def _decoded(
    file: IO[bytes], name: str, encoding: str, then: str
) -> Iterator[tuple[list[str], int]]:
    """Yield batches of decoded lines, with line ends, and their size in bytes."""
    number = 0
    while raw := file.readlines(STEP):
        if not number:
            _check_beginning(raw, name, then)
        try:
            lines = [line.decode(encoding) for line in raw]
        except UnicodeDecodeError as error:
            number += _first_broken(raw, encoding)
            raise ValueError(
                f"{name} line {number} is not {encoding}: {error.reason}, byte "
                f"{error.object[error.start]:#04x}; pass encoding='cp1252' "
                "(--encoding cp1252) for Western European text from Windows, or "
                "encoding='latin-1' (--encoding latin-1), which accepts any bytes"
            ) from None
        if not number:
            lines[0] = lines[0].removeprefix("\ufeff")
        number += len(raw)
        yield lines, sum(map(len, raw))


def _check_beginning(raw: list[bytes], name: str, then: str) -> None:
    """Raise if the first lines are not text, or lines end with a lone CR."""
    check_text(b"".join(raw[:64])[:SAMPLE], name, then=then)
    if raw[0].rstrip(b"\r").count(b"\r") and b"\n" not in raw[0]:
        raise ValueError(
            f"{name} must have lines that end with \\n, but they end with \\r: "
            f"tr '\\r' '\\n' < {shlex.quote(name)} {then}"
        )


def _first_broken(raw: list[bytes], encoding: str) -> int:
    for number, line in enumerate(raw, 1):
        try:
            line.decode(encoding)
        except UnicodeDecodeError:
            return number
    return 0


def _lines(
    lines: Iterator[list[str]], name: str, column: str | None, facts: Facts
) -> Iterator[list[str]]:
    if column is not None:
        raise ValueError(
            f"{name} is read as lines, which have no column {column!r}; pass "
            "kind='csv' (--kind csv) to read it as a table"
        )
    for block in lines:
        yield [line.rstrip("\r\n") for line in block]


def _objects(
    lines: Iterator[list[str]], name: str, column: str | None, facts: Facts
) -> Iterator[list[str]]:
    number = 0
    for block in lines:
        texts = []
        for line in block:
            number += 1
            if line.strip():
                texts.append(_value(line, f"{name} line {number}", column, facts))
        yield texts


def _value(line: str, where: str, column: str | None, facts: Facts) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be JSON: {error}") from None
    if isinstance(value, dict):
        key = choose_column(list(value), where, column)
        facts.setdefault("column", key)
        facts.setdefault("columns", list(value))
        value = value[key]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, found {value!r}")
    return value


READERS: dict[str, Callable[..., Iterator[list[str]]]] = {
    "lines": _lines,
    "csv": table(","),
    "tsv": table("\t"),
    "jsonl": _objects,
}


def _parquet(
    source: Any, name: str, column: str | None, facts: Facts
) -> Iterator[Batch]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(f"{name} needs the package pyarrow: {INSTALL}") from None
    if not isinstance(source, str | os.PathLike):
        raise ValueError("Parquet must be read from a regular file, found a stream")
    try:
        with pq.ParquetFile(source) as file:
            column_name = choose_column(file.schema_arrow.names, name, column)
            facts |= {"column": column_name, "columns": list(file.schema_arrow.names)}
            dtype = file.schema_arrow.field(column_name).type
            inner = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
            if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
                raise ValueError(
                    f"{name}: column {column_name!r} must contain texts, found {dtype}"
                )
            n_rows, size = max(1, file.metadata.num_rows), Path(source).stat().st_size
            n_read = 0
            for batch in file.iter_batches(ROWS, columns=[column_name]):
                n_before, n_read = n_read, n_read + len(batch)
                n_bytes = size * n_read // n_rows - size * n_before // n_rows
                yield Batch(batch.column(0), n_bytes, facts)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name} is not a complete Parquet file: {error}") from None
