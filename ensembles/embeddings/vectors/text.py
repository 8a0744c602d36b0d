"""Reader of word vectors in text files: GloVe, word2vec and fastText ``.vec``.

Each line is a word and its numbers. word2vec and fastText write a header line with the
number of words and dimensions. Words may contain spaces, as some in GloVe do: the last
``dim`` fields of a line are its numbers.
"""

from __future__ import annotations

import codecs
import contextlib
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.files.binary_files import decode, map_bytes
from ensembles.embeddings.vectors.word_vectors import WordVectors, check_finite
from ensembles.kernels.jit import compiled, inlined
from ensembles.parallel import chunks, map_threads, resolve_n_threads

Bytes = NDArray[np.uint8]
Spans = NDArray[np.int64]

# Results of parsing a line.
PARSED, TOO_SHORT, NOT_PARSED = 0, 1, 2

NEWLINE, SPACE, TAB, RETURN = 10, 32, 9, 13
PLUS, MINUS, POINT, ZERO, NINE = 43, 45, 46, 48, 57
UPPER_E, LOWER_E = 69, 101
MOST_DIGITS = 18  # decimal digits that always fit in an int64
# Products and quotients of integers below 2**53 and powers of ten up to 10**22 are
# correctly rounded, because both are exact in float64 (Clinger 1990).
EXACT = 1 << 53
POWERS = 10.0 ** np.arange(23)


@compiled
def end_of_lines(data: Bytes, start: int, max_lines: int) -> tuple[int, int]:
    """Count lines from ``start`` on, up to ``max_lines``; also return their end."""
    n_lines, at = 0, start
    while n_lines < max_lines and at < data.size:
        while at < data.size and data[at] != NEWLINE:
            at += 1
        at += 1
        n_lines += 1
    return n_lines, min(at, data.size)


@inlined
def _is_space(byte: int) -> bool:
    return byte in (SPACE, TAB, RETURN)


@inlined
def _is_digit(byte: int) -> bool:
    return ZERO <= byte <= NINE


@compiled
def number(data: Bytes, at: int, end: int, powers: NDArray[np.float64]) -> float:
    """Parse a decimal number; NaN if the fast path does not apply."""
    negative = data[at] == MINUS
    if negative or data[at] == PLUS:
        at += 1
    value, n_digits, exponent = 0, 0, 0
    first = at
    while at < end and _is_digit(data[at]):
        value = value * 10 + int(data[at] - ZERO)
        n_digits += value > 0
        if n_digits > MOST_DIGITS:
            return np.nan
        at += 1
    n_seen = at - first
    if at < end and data[at] == POINT:
        at += 1
        first = at
        while at < end and _is_digit(data[at]):
            value = value * 10 + int(data[at] - ZERO)
            n_digits += value > 0
            if n_digits > MOST_DIGITS:
                return np.nan
            at += 1
        exponent = first - at
        n_seen += at - first
    if n_seen == 0:
        return np.nan
    if at < end and (data[at] == LOWER_E or data[at] == UPPER_E):
        at += 1
        below = at < end and data[at] == MINUS
        if at < end and (data[at] == MINUS or data[at] == PLUS):
            at += 1
        if at == end:
            return np.nan
        power = 0
        while at < end and _is_digit(data[at]) and power < 1000:
            power = power * 10 + int(data[at] - ZERO)
            at += 1
        exponent += -power if below else power
    if at < end or value >= EXACT or exponent < -22 or exponent > 22:
        return np.nan
    size = float(-value if negative else value)
    return float(size / powers[-exponent] if exponent < 0 else size * powers[exponent])


@compiled
def parse_lines(
    data: Bytes,
    start: int,
    matrix: NDArray[np.float32],
    spans: Spans,
    results: NDArray[np.uint8],
    powers: NDArray[np.float64],
) -> None:
    """Parse lines of a token followed by ``dim`` numbers.

    Parameters
    ----------
    data : ndarray of bytes
        Content of the file.
    start : int
        Offset of the first line.
    matrix : ndarray of shape (n_lines, dim), float32, written to
        Vector of each line.
    spans : ndarray of shape (n_lines, 3), int64, written to
        Offsets of the start and the end of each token, and of the end of its line.
    results : ndarray of shape (n_lines,), written to
        Result of each line: `PARSED`, `TOO_SHORT` (too few fields) or `NOT_PARSED` (a
        field is not a number that `number` can parse).
    powers : ndarray
        Powers of ten, `POWERS`.
    """
    n_lines, dim = matrix.shape
    begin = start
    for row in range(n_lines):
        stop = begin
        while stop < data.size and data[stop] != NEWLINE:
            stop += 1
        end = stop
        while end > begin and _is_space(data[end - 1]):
            end -= 1
        token_end = end
        n_fields = 0
        while n_fields < dim and token_end > begin:
            while token_end > begin and not _is_space(data[token_end - 1]):
                token_end -= 1
            while token_end > begin and _is_space(data[token_end - 1]):
                token_end -= 1
            n_fields += 1
        spans[row, 0], spans[row, 1], spans[row, 2] = begin, token_end, stop
        results[row] = TOO_SHORT if token_end == begin else PARSED
        at = token_end
        if token_end > begin:
            for column in range(dim):
                while _is_space(data[at]):
                    at += 1
                first = at
                while at < end and not _is_space(data[at]):
                    at += 1
                value = number(data, first, at, powers)
                matrix[row, column] = value
                if value != value:
                    results[row] = NOT_PARSED
        begin = stop + 1


LINES = 4096  # lines per job of a thread
LONGEST_LINE = 1 << 20
BLANK = 4096  # bytes at the end of the file that are searched for blank lines
NO_LIMIT = 1 << 62


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from a text file.

    Parameters
    ----------
    path : Path
        The text file.
    limit : int or None
        Number of lines to read, the first ones; None reads all.
    errors : str
        Error handler for tokens that are not UTF-8, as in ``bytes.decode``.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If a line has too few numbers or a field that is not a number, the number of
        lines differs from the header, a word has a NUL byte, or is not UTF-8 and
        ``errors`` is "strict", or a vector is not finite.

    Warns
    -----
    UserWarning
        If lines have numbers but no word; they are skipped.
    """
    data = _stripped(map_bytes(path))
    header, start, dim = _shape(path, data)
    max_lines = NO_LIMIT if limit is None else limit
    if header is not None:
        # One line more than in the header, to detect excess lines.
        max_lines = min(max_lines, header + 1)
    n_lines, stop = end_of_lines(data, start, max_lines)
    n_read = n_lines if limit is None else min(n_lines, limit)
    expected = n_lines if header is None else min(header, max_lines)
    if n_lines != expected and (limit is None or n_lines < limit):
        more = "more" if n_lines > expected else str(n_lines)
        raise ValueError(
            f"{path}: its first line declares {header} vectors, found {more}; the file "
            "is truncated or its header is wrong"
        )
    if n_read * dim * 2 > len(data):  # a number takes at least a digit and a space
        raise ValueError(
            f"{path}: its first line declares {dim} numbers per line, more than "
            "the file has"
        )
    matrix = np.empty((n_read, dim), np.float32)
    spans = np.empty((n_read, 3), np.int64)
    results = np.empty(n_read, np.uint8)
    _parse(data[:stop], start, matrix, spans, results)
    first_line = 1 + (header is not None)
    nameless = _parse_rest(path, data, matrix, spans, results, first_line)
    tokens = _tokens(path, data, spans, dim, errors, first_line)
    if nameless:
        warnings.warn(
            f"{path} line {nameless[0] + first_line} has numbers without a word: "
            f"{len(nameless)} such lines are skipped",
            stacklevel=5,
        )
        kept = np.delete(np.arange(n_read), nameless)
        tokens, matrix = [tokens[row] for row in kept], matrix[kept]
    check_finite(matrix, tokens, str(path))
    return WordVectors(tokens, matrix, source=str(path), format="text")


def _stripped(data: Bytes) -> Bytes:
    """Strip the UTF-8 byte order mark and trailing blank lines.

    A mark that is followed by whitespace is kept: it is a token.
    """
    blank = bytes(data[-BLANK:])
    data = data[: len(data) - len(blank) + len(blank.rstrip(b"\r\n"))]
    first = bytes(data[:4])
    if first.startswith(codecs.BOM_UTF8) and not first[3:].isspace():
        return data[3:]
    return data


def _shape(path: Path, data: Bytes) -> tuple[int | None, int, int]:
    """Number of lines in the header or None, offset of the vectors, and dimensions."""
    head = bytes(data[:LONGEST_LINE])
    first, newline, rest = head.partition(b"\n")
    fields = first.split()
    if b"\0" in first or (not newline and len(head) == LONGEST_LINE):
        raise ValueError(f"{path} is not a text file of vectors: {first[:20]!r}…")
    if len(fields) == 2 and rest:
        with contextlib.suppress(ValueError):
            n_words, dim = int(fields[0]), int(fields[1])
            n_found = len(rest.partition(b"\n")[0].split()) - 1
            # Also a header if the second line has another dimension; the error then
            # names that line.
            if n_words > 0 and dim > 0 and n_found > 1:
                return n_words, len(first) + 1, min(dim, LONGEST_LINE)
            if n_words > 0 and dim == 1 == n_found and _is_count(fields[0]):
                return n_words, len(first) + 1, dim
    if len(fields) < 2:
        raise ValueError(
            f"{path} line 1 must be a word and its numbers, found {first[:60]!r}"
        )
    return None, 0, len(fields) - 1


def _is_count(field: bytes) -> bool:
    return field.isdigit()


def _parse(
    data: Bytes,
    start: int,
    matrix: Float32,
    spans: Spans,
    results: Bytes,
) -> None:
    jobs = []
    for first, last in chunks(len(matrix), LINES):
        jobs.append((start, first, last))
        _, start = end_of_lines(data, start, last - first)

    def begin() -> object:
        def work(job: tuple[int, int, int]) -> None:
            at, first, last = job
            rows = slice(first, last)
            parse_lines(data, at, matrix[rows], spans[rows], results[rows], POWERS)

        return work

    map_threads(jobs, begin, resolve_n_threads(None))  # type: ignore[arg-type]


def _parse_rest(
    path: Path,
    data: Bytes,
    matrix: Float32,
    spans: Spans,
    results: Bytes,
    first_line: int,
) -> list[int]:
    """Parse lines that the compiled loop did not parse, or raise an error.

    Returns the rows of lines with all numbers but no word.
    """
    nameless = []
    for row in np.flatnonzero(results != PARSED):
        begin, end, stop = spans[row]
        line = bytes(data[begin:stop])
        where = f"{path} line {row + first_line}"
        if results[row] == TOO_SHORT:
            if line[:1].isspace() and _are_numbers(line.split(), matrix.shape[1]):
                nameless.append(int(row))
                matrix[row] = 0
                continue
            raise ValueError(
                f"{where} must be a word and {matrix.shape[1]} numbers, found "
                f"{len(line.split())} fields: {line[:60]!r}"
            )
        fields = line[end - begin :].split()
        try:
            matrix[row] = [float(field) for field in fields]
        except ValueError as error:
            raise ValueError(
                f"{where} must be a word and {matrix.shape[1]} numbers: {error}"
            ) from None
    return nameless


def _are_numbers(fields: list[bytes], n: int) -> bool:
    return len(fields) == n and all(_is_number(field) for field in fields)


def _tokens(
    path: Path, data: Bytes, spans: Spans, dim: int, errors: str, first_line: int
) -> list[str]:
    view = data.data
    tokens = []
    for row, (begin, end, _) in enumerate(spans.tolist()):
        word = bytes(view[begin:end])
        if b" " in word and _is_number(word.split()[-1]):
            n_found = dim + sum(_is_number(part) for part in word.split()[1:])
            raise ValueError(
                f"{path} line {row + first_line} must be a word and {dim} numbers, "
                f"found {n_found}"
            )
        try:
            tokens.append(word.decode() if 0 not in word else decode(word, errors, ""))
        except ValueError:
            where = f"{path} line {row + first_line}"
            tokens.append(decode(word, errors, where))
    return tokens


def _is_number(field: bytes) -> bool:
    with contextlib.suppress(ValueError):
        float(field)
        return True
    return False
