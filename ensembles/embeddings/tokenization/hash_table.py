"""Hash table from words to the rows of their subword tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.tokenization.hash_table_loops import (
    N_COLUMNS,
    add_words,
    move_words,
)
from ensembles.embeddings.tokenization.texts import Bytes, Int64

Int32 = NDArray[np.int32]
UInt64 = NDArray[np.uint64]
# Rows of all tokens, and the offsets at which each text begins.
Rows = tuple[Int32, Int64]

UNFOLDED = np.arange(256).astype(np.uint8)  # identity: no case folding


class Spans(NamedTuple):
    """Words in a buffer: start and end of each, and the case folding of bytes."""

    buffer: Bytes
    spans: Int64
    folded: Bytes

    def words(self) -> list[bytes]:
        """The words, without folding."""
        data = self.buffer.data
        return [bytes(data[span[0] : span[1]]) for span in self.spans.tolist()]

    @property
    def n_bytes(self) -> int:
        """Total length of the words in bytes."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())


class Known(NamedTuple):
    """Arrays of a hash table; readers see only the first ``n_words`` words."""

    slots: UInt64
    words: Int64
    text: Bytes
    pieces: Int32
    n_words: int
    n_bytes: int
    n_pieces: int

    def has_room(self, n_words: int, n_bytes: int, n_pieces: int) -> bool:
        """Whether the arrays can hold the given totals."""
        return (
            n_words <= len(self.words)
            and n_bytes <= self.text.size
            and n_pieces <= self.pieces.size
        )

    def added(self, where: Spans, rows: Int32, row_ends: Int64) -> Known:
        """The same arrays with words appended, as many as fit."""
        tables = (self.slots, self.words, self.text, self.pieces)
        filled = add_words(*where, rows, row_ends, *self)
        return Known(*tables, *filled)

    def moved(self, room: Known) -> Known:
        """Copies the words into the larger arrays ``room``."""
        room.words[: self.n_words] = self.words[: self.n_words]
        room.text[: self.n_bytes] = self.text[: self.n_bytes]
        room.pieces[: self.n_pieces] = self.pieces[: self.n_pieces]
        move_words(room.words, room.text, UNFOLDED, self.n_words, room.slots)
        tables = (room.slots, room.words, room.text, room.pieces)
        return Known(*tables, self.n_words, self.n_bytes, self.n_pieces)


def room_for(n_words: int, n_bytes: int, n_pieces: int) -> Known:
    """Empty hash table with a load factor of at most one half."""
    return Known(
        np.zeros(1 << (2 * n_words - 1).bit_length(), np.uint64),
        np.empty((n_words, N_COLUMNS), np.int64),
        np.empty(n_bytes, np.uint8),
        np.empty(n_pieces, np.int32),
        *(0, 0, 0),
    )


def table_of(words: Sequence[bytes], rows: Int32) -> Known:
    """Hash table of words with one row each."""
    where = joined(words)
    room = room_for(max(1, len(words)), where.buffer.size, rows.size)
    return room.added(where, rows, np.arange(len(words) + 1))


def joined(words: Sequence[bytes]) -> Spans:
    """Concatenates words into one buffer."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    ends = ends_of(lengths)
    spans = np.stack([ends[:-1], ends[1:]], axis=1)
    return Spans(np.frombuffer(b"".join(words), np.uint8), spans, UNFOLDED)


def ends_of(lengths: Int64) -> Int64:
    """Offsets from lengths: 0, then the cumulative sums."""
    ends = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
