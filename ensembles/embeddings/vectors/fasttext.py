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
from ensembles.parallel import cut

MAGIC = 793712314
VERSIONS = (11, 12)
SUPERVISED = 3  # model 1 is cbow, 2 is skip-gram, 3 is supervised
LONGEST_WORD = 1 << 13
WORD = 0  # entry type 0 is a word, 1 is a label
STEP = 1 << 14  # words in a block


class Head(NamedTuple):
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
    head = _head(reader)
    spelled, counts = _words(reader, head)
    matrix = _matrix(reader, head, len(spelled))
    own, grams = matrix[: len(spelled)], matrix[len(spelled) :]
    subwords = NgramVectors(grams, own, head.shortest, head.longest)
    spelled = spelled[:limit]
    words = [
        decode(word, errors, f"{path} word {row + 1}")
        for row, word in enumerate(spelled)
    ]
    vectors = np.empty((len(words), head.dim), np.float32)
    for start, stop in cut(len(words), STEP):
        rows = np.arange(start, stop)
        vectors[start:stop] = subwords.from_utf8(spelled[start:stop], rows)
    check_finite(vectors, words, str(path))
    return WordVectors(
        words,
        vectors,
        counts=counts[: len(words)],
        ngrams=subwords if len(grams) and head.longest else None,
        source=str(path),
        format="fastText's binary",
    )


def _head(reader: BinaryReader) -> Head:
    (first,) = reader.numbers("i", "its head")
    is_new = first == MAGIC
    version = VERSIONS[0]
    dim = first
    if is_new:
        version, dim = reader.numbers("ii", "its head")
        if version not in VERSIONS:
            raise reader.broken(f"its version is {version} (known: 11 and 12)")
    *_, model, n_buckets, shortest, longest, _rate = reader.numbers("11i", "its head")
    reader.numbers("d", "its head")
    if version == VERSIONS[0] and is_new and model == SUPERVISED:
        longest = 0  # fastText does the same when it loads such a file
    if (
        dim < 1
        or n_buckets < 0
        or not 0 <= shortest <= 1000
        or not 0 <= longest <= 1000
    ):
        raise reader.broken(
            f"its head has {dim} dimensions, {n_buckets} buckets, n-grams of "
            f"{shortest} to {longest}"
        )
    return Head(is_new, dim, n_buckets, shortest, longest)


def _words(reader: BinaryReader, head: Head) -> tuple[list[bytes], NDArray[np.int64]]:
    size, n_words, n_labels = reader.numbers("3i", "its dictionary")
    reader.numbers("q", "its dictionary")
    pruned = reader.numbers("q", "its dictionary")[0] if head.is_new else -1
    if pruned >= 0:
        raise reader.broken("it is pruned, as quantized models are; use the whole one")
    # The minimum size of an entry is 10 bytes: a NUL, a count and a type.
    if n_words < 1 or n_labels < 0 or size != n_words + n_labels:
        raise reader.broken(f"{size} entries, {n_words} words, {n_labels} labels")
    if size * 10 > reader.left:
        raise reader.broken(f"it promises {size} entries in {reader.left} bytes")
    words, counts = [], np.zeros(n_words, np.int64)
    for entry in range(size):
        word = reader.word(0, LONGEST_WORD)
        count, kind = reader.numbers("qb", f"entry {entry}")
        if (kind == WORD) != (entry < n_words):
            raise reader.broken(f"entry {entry} is of kind {kind}")
        if kind == WORD:
            words.append(word)
            counts[entry] = count
    return words, counts


def _matrix(reader: BinaryReader, head: Head, n_words: int) -> NDArray[np.float32]:
    if head.is_new and reader.numbers("B", "its matrix")[0]:
        raise reader.broken(
            "it is quantized (.ftz); use the .bin that it was made from"
        )
    n_rows, n_columns = reader.numbers("qq", "its matrix")
    # The n-gram vectors are optional.
    fits = n_rows in (n_words + head.n_buckets, n_words)
    if n_columns != head.dim or not fits:
        raise reader.broken(
            f"its matrix has shape ({n_rows}, {n_columns}), its head says "
            f"({n_words + head.n_buckets}, {head.dim})"
        )
    if n_rows * n_columns * 4 > reader.left:
        raise reader.broken(
            f"its matrix has shape ({n_rows}, {n_columns}), in {reader.left} bytes"
        )
    shape = (n_rows, n_columns)
    return as_float32(map_array(reader.path, "<f4", shape, reader.at))
