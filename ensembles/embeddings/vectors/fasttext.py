"""Reader of fastText binary models (.bin): words, counts and n-gram vectors.

Format: https://github.com/facebookresearch/fastText, args.cc, dictionary.cc, matrix.cc.
Files older than version 11 have no magic number, no pruning and no quantization.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.files.binary_files import BinaryReader, decode, map_array
from ensembles.embeddings.vectors.ngrams import NgramVectors
from ensembles.embeddings.vectors.word_vectors import (
    WordVectors,
    as_float32,
    check_finite,
)
from ensembles.parallel import chunks

MAGIC = 793712314
VERSIONS = (11, 12)
SUPERVISED = 3  # model 1 is cbow, 2 is skip-gram, 3 is supervised
LONGEST_WORD = 1 << 13
WORD = 0  # entry type 0 is a word, 1 is a label
BLOCK = 1 << 14  # words per block


class Header(NamedTuple):
    """Header fields that precede the dictionary."""

    is_new: bool
    dim: int
    n_buckets: int
    shortest: int
    longest: int


def is_fasttext(first: bytes) -> bool:
    """Whether a file begins with the fastText magic number."""
    return int.from_bytes(first[:4], "little") == MAGIC


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word and n-gram vectors from a fastText binary model.

    The matrix of the file is memory-mapped; the word vectors are composed from it.

    Parameters
    ----------
    path : Path
        The ``.bin`` file.
    limit : int or None
        Number of words that get a row, the most frequent ones; None means all. Other
        words are out of vocabulary, but can still be composed of n-grams.
    errors : str
        Error handler for tokens that are not UTF-8, as in ``bytes.decode``.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If the file is inconsistent, truncated, pruned or quantized, a word is not UTF-8
        and ``errors`` is "strict", or a vector is not finite.
    """
    reader = BinaryReader(path)
    header = _header(reader)
    encoded_words, counts = _words(reader, header)
    matrix = _matrix(reader, header, len(encoded_words))
    words_only, grams = matrix[: len(encoded_words)], matrix[len(encoded_words) :]
    ngrams = NgramVectors(grams, words_only, header.shortest, header.longest)
    encoded_words = encoded_words[:limit]
    words = [
        decode(word, errors, f"{path} word {row + 1}")
        for row, word in enumerate(encoded_words)
    ]
    vectors = np.empty((len(words), header.dim), np.float32)
    for start, stop in chunks(len(words), BLOCK):
        rows = np.arange(start, stop)
        vectors[start:stop] = ngrams.from_utf8(encoded_words[start:stop], rows)
    check_finite(vectors, words, str(path))
    return WordVectors(
        words,
        vectors,
        counts=counts[: len(words)],
        ngrams=ngrams if len(grams) and header.longest else None,
        source=str(path),
        format="fastText's binary",
    )


def _header(reader: BinaryReader) -> Header:
    (first,) = reader.numbers("i", "the header")
    is_new = first == MAGIC
    version = VERSIONS[0]
    dim = first
    if is_new:
        version, dim = reader.numbers("ii", "the header")
        if version not in VERSIONS:
            raise reader.broken(f"its version is {version}, not 11 or 12")
    *_, model, n_buckets, shortest, longest, _rate = reader.numbers("11i", "the header")
    reader.numbers("d", "the header")
    if version == VERSIONS[0] and is_new and model == SUPERVISED:
        longest = 0  # fastText does the same when it loads such a file
    if (
        dim < 1
        or n_buckets < 0
        or not 0 <= shortest <= 1000
        or not 0 <= longest <= 1000
    ):
        raise reader.broken(
            f"its header declares {dim} dimensions, {n_buckets} buckets and n-grams of "
            f"{shortest} to {longest} characters"
        )
    return Header(is_new, dim, n_buckets, shortest, longest)


def _words(
    reader: BinaryReader, header: Header
) -> tuple[list[bytes], NDArray[np.int64]]:
    n_entries, n_words, n_labels = reader.numbers("3i", "the dictionary")
    reader.numbers("q", "the dictionary")
    pruned = reader.numbers("q", "the dictionary")[0] if header.is_new else -1
    if pruned >= 0:
        raise reader.broken("it is pruned, as quantized models are; use the full model")
    # The minimum size of an entry is 10 bytes: a NUL, a count and a type.
    if n_words < 1 or n_labels < 0 or n_entries != n_words + n_labels:
        raise reader.broken(f"{n_entries} entries, {n_words} words, {n_labels} labels")
    if n_entries * 10 > reader.n_left:
        raise reader.broken(
            f"its header declares {n_entries} entries, but only {reader.n_left} "
            "bytes follow"
        )
    words, counts = [], np.zeros(n_words, np.int64)
    for entry in range(n_entries):
        word = reader.word(0, LONGEST_WORD)
        count, entry_type = reader.numbers("qb", f"entry {entry}")
        if (entry_type == WORD) != (entry < n_words):
            raise reader.broken(f"entry {entry} has the type {entry_type}")
        if entry_type == WORD:
            words.append(word)
            counts[entry] = count
    return words, counts


def _matrix(reader: BinaryReader, header: Header, n_words: int) -> NDArray[np.float32]:
    if header.is_new and reader.numbers("B", "the matrix")[0]:
        raise reader.broken(
            "it is quantized (.ftz); use the .bin file that it was made from"
        )
    n_rows, n_columns = reader.numbers("qq", "the matrix")
    # The n-gram vectors are optional.
    fits = n_rows in (n_words + header.n_buckets, n_words)
    if n_columns != header.dim or not fits:
        raise reader.broken(
            f"its matrix has shape ({n_rows}, {n_columns}), its header requires "
            f"({n_words + header.n_buckets}, {header.dim})"
        )
    if n_rows * n_columns * 4 > reader.n_left:
        raise reader.broken(
            f"its matrix has shape ({n_rows}, {n_columns}), but only {reader.n_left} "
            "bytes follow"
        )
    shape = (n_rows, n_columns)
    return as_float32(map_array(reader.path, "<f4", shape, reader.at))
