"""Word vectors composed of character n-gram vectors, as in fastText."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.kernels.jit import compiled, inlined

Bytes = NDArray[np.uint8]
Int64 = NDArray[np.int64]

# 32-bit FNV-1a hash.
BASIS, PRIME, MASK = 2166136261, 16777619, 0xFFFFFFFF
SIGN, ABOVE = 0x80, 0xFFFFFF00  # fastText hashes signed bytes
HEAD, CONTINUES = 0xC0, 0x80  # bytes 10xxxxxx continue a character of UTF-8


@inlined
def _begins(byte: int) -> bool:
    return (byte & HEAD) != CONTINUES


@compiled
def compose(
    text: Bytes,
    offsets: Int64,
    rows: Int64,
    words: Float32,
    grams: Float32,
    lengths: tuple[int, int],
    out: Float32,
) -> None:
    """Mean of the n-gram vectors of each word and, if it has one, its word vector.

    Parameters
    ----------
    text : ndarray of bytes
        Words in UTF-8, each between ``<`` and ``>``, concatenated.
    offsets : ndarray of shape (n_words + 1,)
        Start of each word in ``text``, and the end of the last one.
    rows : ndarray of shape (n_words,)
        Row of each word in ``words``; -1 for an out-of-vocabulary word.
    words : ndarray of shape (n_known, dim)
        Word vectors without n-grams.
    grams : ndarray of shape (n_buckets, dim)
        N-gram vector of each hash bucket.
    lengths : (int, int)
        Minimum and maximum n-gram length in characters.
    out : ndarray of shape (n_words, dim), written to
        Composed vectors; zeros for a word without any part.
    """
    shortest, longest = lengths
    n_buckets, dim = len(grams), out.shape[1]
    total = np.zeros(dim)
    for word in range(len(rows)):
        total[:] = 0
        n_parts = 0
        if rows[word] >= 0:
            n_parts = 1
            for column in range(dim):
                total[column] += words[rows[word], column]
        begin, end = offsets[word], offsets[word + 1]
        for first in range(begin, end):
            if not _begins(text[first]):
                continue
            hashed, n_characters, at = np.int64(BASIS), 0, first
            while at < end and n_characters < longest:
                in_character = True
                while in_character:  # bytes of one UTF-8 character
                    byte = np.int64(text[at])
                    if byte & SIGN:
                        byte |= ABOVE
                    hashed = ((hashed ^ byte) * PRIME) & MASK
                    at += 1
                    in_character = at < end and not _begins(text[at])
                n_characters += 1
                # fastText skips the n-grams "<" and ">".
                is_boundary = n_characters == 1 and (first == begin or at == end)
                if n_characters >= shortest and not is_boundary and n_buckets:
                    bucket = hashed % n_buckets
                    n_parts += 1
                    for column in range(dim):
                        total[column] += grams[bucket, column]
        for column in range(dim):
            out[word, column] = total[column] / max(n_parts, 1)


@dataclass(frozen=True, eq=False)
class NgramVectors:
    """Vectors of n-grams and of in-vocabulary words.

    Parameters
    ----------
    grams : ndarray of shape (n_buckets, dim), float32
        N-gram vector of each hash bucket.
    words : ndarray of shape (n_words, dim), float32
        Word vectors without n-grams.
    shortest, longest : int
        Minimum and maximum n-gram length in characters; ``longest`` is 0 for a model
        without n-grams.
    """

    grams: Float32 = field(repr=False)
    words: Float32 = field(repr=False)
    shortest: int
    longest: int

    def vectors(self, words: Sequence[str], row_of: Mapping[str, int]) -> Float32:
        """Compose the vectors of words.

        A vector is the mean of the n-gram vectors and, for an in-vocabulary word, the
        word vector. It is zero for a word without any of these.

        Parameters
        ----------
        words : sequence of str
            Words to compose.
        row_of : mapping of str to int
            Row of each in-vocabulary word in the word vectors.

        Returns
        -------
        ndarray of shape (n_words, dim), float32
        """
        rows = np.array([row_of.get(word, -1) for word in words], np.int64)
        return self.from_utf8([word.encode("utf-8", "replace") for word in words], rows)

    def from_utf8(self, words: Sequence[bytes], rows: Int64) -> Float32:
        """Compose the vectors of words in bytes, which need not be valid UTF-8.

        Parameters
        ----------
        words : sequence of bytes
            Words to compose.
        rows : ndarray of shape (n_words,), int64
            Row of each word in the word vectors; -1 for an out-of-vocabulary word.

        Returns
        -------
        ndarray of shape (n_words, dim), float32
        """
        marked = [b"<%s>" % word for word in words]
        offsets = np.zeros(len(marked) + 1, np.int64)
        np.cumsum([len(word) for word in marked], out=offsets[1:])
        text = np.frombuffer(b"".join(marked), np.uint8)
        out = np.empty((len(marked), self.grams.shape[1]), np.float32)
        lengths = (self.shortest, self.longest)
        compose(text, offsets, rows, self.words, self.grams, lengths, out)
        return out
