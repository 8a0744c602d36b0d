"""Reader of binary word2vec files: a header, then word, space and floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.files.binary_files import BinaryReader, decode
from ensembles.embeddings.vectors.word_vectors import WordVectors, check_finite
from ensembles.kernels.jit import compiled

LONGEST_WORD = 1 << 13
LONGEST_HEADER = 64
SPACE, NEWLINE = 32, 10
CONTROL = frozenset(range(32)).difference(b"\t\n\v\f\r")  # bytes that text lacks


@compiled
def gather(
    data: NDArray[np.uint8],
    start: int,
    rows: NDArray[np.uint8],
    spans: NDArray[np.int64],
) -> int:
    """Copy the bytes of each vector into its row.

    Parameters
    ----------
    data : ndarray of bytes
        Content of the file.
    start : int
        Offset of the first word.
    rows : ndarray of shape (n_words, 4 * dim), written to
        Bytes of each vector.
    spans : ndarray of shape (n_words, 2), written to
        Offsets of the start and the end of each word.

    Returns
    -------
    int
        Number of complete vectors.
    """
    n_words, size = rows.shape
    at = start
    for row in range(n_words):
        while at < data.size and data[at] == NEWLINE:  # written by the C program
            at += 1
        begin = at
        last = min(data.size, at + LONGEST_WORD)
        while at < last and data[at] != SPACE:
            at += 1
        if at >= last or at + 1 + size > data.size:
            return int(row)
        spans[row, 0], spans[row, 1] = begin, at
        at += 1
        for byte in range(size):
            rows[row, byte] = data[at + byte]
        at += size
    return int(n_words)


def header_of(first: bytes) -> tuple[int, int] | None:
    """Number of words and dimensions in the header; None if there is no header."""
    fields = first.partition(b"\n")[0].split()
    if b"\n" in first and len(fields) == 2 and all(part.isdigit() for part in fields):
        return int(fields[0]), int(fields[1])
    return None


def is_binary(first: bytes) -> bool:
    """Whether the first bytes are a header followed by binary numbers."""
    header = header_of(first[:LONGEST_HEADER])
    if header is None:
        return False
    numbers = first.partition(b"\n")[2].partition(b" ")[2][: 4 * header[1]]
    return not CONTROL.isdisjoint(numbers)


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from a binary word2vec file.

    Vectors are copied, not memory-mapped, because words and vectors alternate.

    Parameters
    ----------
    path : Path
        The binary file.
    limit : int or None
        Number of words to read, the first ones; None reads all.
    errors : str
        Error handler for tokens that are not UTF-8, as in ``bytes.decode``.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If the header is missing or does not fit the file, a word has a NUL byte, or is
        not UTF-8 and ``errors`` is "strict", or a vector is not finite.
    """
    reader = BinaryReader(path)
    header = header_of(bytes(reader.data[:LONGEST_HEADER]))
    if header is None:
        raise reader.broken(
            "its first line must be the numbers of words and of dimensions"
        )
    n_words, dim = header
    reader.word(NEWLINE, LONGEST_HEADER)
    if n_words == 0 or dim == 0 or n_words * (4 * dim + 1) > reader.n_left:
        raise reader.broken(
            f"its first line declares {n_words} vectors of {dim} numbers, but only "
            f"{reader.n_left} bytes follow"
        )
    n_read = n_words if limit is None else min(n_words, limit)
    matrix = np.empty((n_read, dim), "<f4")
    spans = np.empty((n_read, 2), np.int64)
    n_complete = gather(reader.data, reader.at, matrix.view(np.uint8), spans)
    if n_complete < n_read:
        raise reader.broken(
            f"it declares {n_words} vectors, and number {n_complete + 1} is truncated"
        )
    if n_read == n_words:
        end = int(spans[-1, 1]) + 1 + 4 * dim
        rest = bytes(reader.data[end : end + 64]).strip(b"\n")
        if rest:
            raise reader.broken(
                f"it has more data than the {n_words} vectors that it declares"
            )
    view = reader.data.data
    tokens = [
        decode(bytes(view[begin:end]), errors, f"{path} word {row + 1}")
        for row, (begin, end) in enumerate(spans.tolist())
    ]
    check_finite(matrix, tokens, str(path))
    return WordVectors(tokens, matrix, source=str(path), format="word2vec's binary")
