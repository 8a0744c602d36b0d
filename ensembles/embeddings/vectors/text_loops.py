"""Compiled parser of word vectors in text files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensembles.kernels.jit import compiled, inlined

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

# Result of parsing a line.
FINE, SHORT, UNREAD = 0, 1, 2

NEWLINE, SPACE, TAB, RETURN = 10, 32, 9, 13
PLUS, MINUS, POINT, ZERO, NINE = 43, 45, 46, 48, 57
UPPER_E, LOWER_E = 69, 101
MOST_DIGITS = 18  # decimal digits that always fit in an int64
# Products and quotients of integers below 2**53 and powers of ten up to 10**22 are
# correctly rounded, because both are exact in float64 (Clinger 1990).
EXACT = 1 << 53
POWERS = 10.0 ** np.arange(23)


@compiled
def end_of_lines(data: Bytes, start: int, most: int) -> tuple[int, int]:
    """Number of lines from ``start`` on, at most ``most``, and the end of the last."""
    n_lines, at = 0, start
    while n_lines < most and at < data.size:
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
    places: Places,
    faults: NDArray[np.uint8],
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
    places : ndarray of shape (n_lines, 3), int64, written to
        Offsets of the start and the end of each token, and of the end of its line.
    faults : ndarray of shape (n_lines,), written to
        Result of each line: `FINE`, `SHORT` (too few fields) or `UNREAD` (a field is
        not a number that `number` can parse).
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
        places[row, 0], places[row, 1], places[row, 2] = begin, token_end, stop
        faults[row] = SHORT if token_end == begin else FINE
        at = token_end
        if token_end > begin:
            for column in range(dim):
                while _is_space(data[at]):
                    at += 1
                first = at
                while at < end and not _is_space(data[at]):
                    at += 1
                found = number(data, first, at, powers)
                matrix[row, column] = found
                if found != found:
                    faults[row] = UNREAD
        begin = stop + 1
