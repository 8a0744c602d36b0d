"""Compiled WordPiece tokenization of ASCII words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.hash_table import (
    Int32,
    Known,
    Rows,
    Spans,
    table_of,
)
from ensembles.embeddings.tokenization.hash_table_loops import cut_words


class WordPieces:
    """WordPiece for words that need no normalization but case folding.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json`` of type WordPiece.
    row_of : ndarray of shape (n_ids,), int32
        Row of each token id; -1 for none.

    References
    ----------
    Schuster & Nakajima (2012), "Japanese and Korean voice search"; greedy longest match
    as in Devlin et al. (2019), "BERT", and in ``tokenizers``' WordPiece: a word without
    a complete segmentation is unknown as a whole.
    """

    def __init__(self, model: Mapping[str, Any], row_of: Int32) -> None:
        vocabulary: Mapping[str, int] = model["vocab"]
        prefix: str = model["continuing_subword_prefix"]
        self._most = int(model["max_input_chars_per_word"])
        self._unknown = row_of[vocabulary[model["unk_token"]]]
        self._first = _table(vocabulary, "", row_of)
        self._later = _table(vocabulary, prefix, row_of)
        self._longest = max(
            (len(piece) for piece in vocabulary if piece.isascii()), default=0
        )

    def rows(self, where: Spans) -> Rows:
        """Rows and offsets of words of ASCII letters and digits."""
        rows = np.empty(where.n_bytes, np.int32)
        row_ends = np.empty(len(where.spans) + 1, np.int64)
        tables = [
            *(self._first.slots, self._first.words, self._first.text),
            self._first.n_words,
            *(self._later.slots, self._later.words, self._later.text),
            self._later.n_words,
        ]
        sizes = (self._longest, self._most, self._unknown)
        n_rows: int = cut_words(*where, *sizes, *tables, rows, row_ends)
        return rows[:n_rows], row_ends


def _table(vocabulary: Mapping[str, int], prefix: str, row_of: Int32) -> Known:
    """Hash table of the alphanumeric ASCII pieces that start with a prefix."""
    start = len(prefix)
    found = {
        piece[start:].encode(): row_of[number]
        for piece, number in vocabulary.items()
        if piece.startswith(prefix) and piece.isascii() and piece[start:].isalnum()
    }
    return table_of(list(found), np.fromiter(found.values(), np.int32, len(found)))
