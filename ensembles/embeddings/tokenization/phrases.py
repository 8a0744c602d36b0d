# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Phrases: pairs of adjacent tokens that have rows of their own in a vector table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.tokenization.cached_tokenizer import (
    Int32,
    RaggedRows,
    Tokenizer,
)
from ensembles.embeddings.tokenization.texts import Int64, TextBatch
from ensembles.kernels.jit import compiled, inlined

UInt64 = NDArray[np.uint64]

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
HALF, ONE = np.uint64(32), np.uint64(1)
MAX_PAIRS = 1 << 30


class PhraseTable(NamedTuple):
    """Hash table from pairs of rows to the row of the phrase.

    Attributes
    ----------
    keys : ndarray of shape (n_slots,), uint64
        Left row in the upper half and right row in the lower half, plus one; 0 marks a
        free slot.
    rows : ndarray of shape (n_slots,), int32
        Row of the phrase in each slot.
    """

    keys: UInt64
    rows: Int32


class PhraseTokenizer(Tokenizer):
    """Tokenizer that appends the rows of known phrases to the tokens of each text.

    A phrase is a pair of adjacent tokens. Its row follows the rows of all tokens of the
    text, so a mean over the rows of a text is a mean over its tokens and its phrases.
    Pairs may overlap; an out-of-vocabulary token between two tokens separates them.

    Parameters
    ----------
    tokenizer : Tokenizer
        Tokenizer that finds the rows of the tokens.
    pairs : ndarray of shape (n_pairs, 2), int32
        Rows of both tokens of each phrase, without duplicates.
    first_row : int
        Row of the first phrase in the vector table; the others follow in order.

    Raises
    ------
    ValueError
        If ``pairs`` has another shape, a negative or a duplicate pair, or a row that is
        not below ``first_row``.
    """

    def __init__(self, tokenizer: Tokenizer, pairs: Any, first_row: int) -> None:
        self._tokenizer, self._first_row = tokenizer, first_row
        self._table = phrase_table(pairs, first_row)

    def tokenize(self, batch: TextBatch, first: int = 0) -> RaggedRows:
        """Tokenize a batch; ``first`` is the index of its first text, for messages."""
        return append_phrases(self._tokenizer.tokenize(batch, first), self._table)

    def without_phrases(self, ragged: RaggedRows) -> RaggedRows:
        """Rows of the tokens alone, without those of their phrases."""
        is_token = ragged.rows < self._first_row
        totals = np.zeros(is_token.size + 1, np.int64)
        np.cumsum(is_token, out=totals[1:])
        return RaggedRows(ragged.rows[is_token], totals[ragged.offsets])


def phrase_table(pairs: Any, first_row: int) -> PhraseTable:
    """Build the hash table of phrases.

    Parameters
    ----------
    pairs : ndarray of shape (n_pairs, 2), int32
        Rows of both tokens of each phrase, without duplicates.
    first_row : int
        Row of the first phrase in the vector table; the others follow in order.

    Returns
    -------
    PhraseTable
        The table.

    Raises
    ------
    ValueError
        If ``pairs`` has another shape, a negative or a duplicate pair, or a row that is
        not below ``first_row``.
    """
    pairs = check_pairs(pairs, first_row)
    n_slots = 1 << max(4, (2 * len(pairs) - 1).bit_length())
    keys, rows = np.zeros(n_slots, np.uint64), np.zeros(n_slots, np.int32)
    duplicate = _fill(pairs, first_row, keys, rows)
    if duplicate >= 0:
        raise ValueError(
            f"phrases must be distinct pairs of rows: phrases[{duplicate}] is "
            f"{tuple(pairs[duplicate].tolist())}, which is already in the list"
        )
    return PhraseTable(keys, rows)


def check_pairs(pairs: Any, first_row: int) -> Int32:
    """Check pairs of rows.

    Parameters
    ----------
    pairs : array-like of shape (n_pairs, 2)
        Rows of both tokens of each phrase.
    first_row : int
        Number of rows of the tokens; each row must be below it.

    Returns
    -------
    ndarray of shape (n_pairs, 2), int32
        The pairs, C-contiguous.

    Raises
    ------
    ValueError
        If the shape, the dtype or a row is wrong.
    """
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            "phrases must be integers of shape (n_pairs, 2), found "
            f"{array.dtype} of shape {array.shape}"
        )
    if len(array) and not 0 <= int(array.min()) <= int(array.max()) < first_row:
        is_wrong = ((array < 0) | (array >= first_row)).any(axis=1)
        index = int(np.flatnonzero(is_wrong)[0])
        raise ValueError(
            f"phrases must be pairs of rows from 0 to {first_row - 1}: phrases[{index}]"
            f" is {tuple(array[index].tolist())}"
        )
    return np.ascontiguousarray(array, np.int32)


def append_phrases(ragged: RaggedRows, table: PhraseTable) -> RaggedRows:
    """Append the rows of the phrases of each text to the rows of its tokens.

    Parameters
    ----------
    ragged : RaggedRows
        Rows of the tokens of each text; -1 for out-of-vocabulary tokens.
    table : PhraseTable
        Known phrases.

    Returns
    -------
    RaggedRows
        Rows of the tokens, then of the phrases, of each text.
    """
    rows, offsets = ragged
    out = np.empty(2 * rows.size, np.int32)
    ends = np.zeros(offsets.size, np.int64)
    n_rows = _append(rows, offsets, *table, out, ends)
    return RaggedRows(out[:n_rows], ends)


def count_phrases(
    tokenized: Iterable[RaggedRows], n_rows: int, *, n_phrases: int, min_count: int
) -> tuple[Int32, Int64]:
    """Find the most frequent pairs of adjacent tokens.

    Parameters
    ----------
    tokenized : iterable of RaggedRows
        Rows of the tokens of texts, in batches.
    n_rows : int
        Number of rows of the vector table.
    n_phrases : int
        Maximum number of phrases.
    min_count : int
        Number of occurrences below which a pair is not a phrase.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2), int32
        Rows of both tokens, the most frequent pair first; pairs of equal frequency are
        in the order of their rows.
    counts : ndarray of shape (n_pairs,), int64
        Number of occurrences of each.
    """
    known, totals = np.empty(0, np.int64), np.empty(0, np.int64)
    for rows, offsets in tokenized:
        is_pair = np.ones(max(rows.size - 1, 0), np.bool_)
        ends = offsets[1:-1] - 1
        is_pair[ends[(ends >= 0) & (ends < is_pair.size)]] = False
        is_pair &= (rows[:-1] >= 0) & (rows[1:] >= 0)
        keys = rows[:-1][is_pair].astype(np.int64) * n_rows + rows[1:][is_pair]
        distinct, counts = np.unique(keys, return_counts=True)
        # Sorted runs: one sort of both keeps at most the distinct pairs in memory.
        known, place = np.unique(np.concatenate([known, distinct]), return_inverse=True)
        totals = np.bincount(
            place, np.concatenate([totals, counts]), minlength=known.size
        ).astype(np.int64)
    is_frequent = totals >= min_count
    known, totals = known[is_frequent], totals[is_frequent]
    order = np.lexsort((known, -totals))[:n_phrases]
    pairs = np.stack(np.divmod(known[order], n_rows), axis=1).astype(np.int32)
    return pairs, totals[order]


@inlined
def _slot(left, right, keys):
    """Key of a pair, and its slot or the free slot where it belongs."""
    key = (np.uint64(left) << HALF) + np.uint64(right) + ONE
    mask = np.uint64(keys.size - 1)
    hashed = key * FACTOR
    at = (hashed ^ (hashed >> HALF)) & mask
    while keys[at] != 0 and keys[at] != key:
        at = (at + ONE) & mask
    return key, at


@compiled
def _fill(pairs, first_row, keys, rows):
    """Fill an empty table; returns the index of a duplicate pair, or -1."""
    duplicate = -1
    for i in range(len(pairs)):
        key, at = _slot(pairs[i, 0], pairs[i, 1], keys)
        if keys[at] == key:
            duplicate = i
            break
        keys[at] = key
        rows[at] = first_row + i
    return duplicate


@compiled
def _append(rows, offsets, keys, phrase_rows, out, ends):
    """Copy the rows of each text and append its phrases; returns the number of rows."""
    n = 0
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        for k in range(start, stop):
            out[n] = rows[k]
            n += 1
        for k in range(start + 1, stop):
            left, right = rows[k - 1], rows[k]
            if left < 0 or right < 0:
                continue
            key, at = _slot(left, right, keys)
            if keys[at] == key:
                out[n] = phrase_rows[at]
                n += 1
        ends[i + 1] = n
    return n
