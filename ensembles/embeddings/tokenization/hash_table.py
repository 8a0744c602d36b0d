"""Tables of words, and the rows of the pieces of each."""

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
# Rows of all texts, and where each text's begin.
Rows = tuple[Int32, Int64]

UNFOLDED = np.arange(256).astype(np.uint8)  # no byte stands for another


class Spans(NamedTuple):
    """Words among bytes: first byte and end of each, and the bytes they stand for."""

    buffer: Bytes
    spans: Int64
    folded: Bytes

    def words(self) -> list[bytes]:
        """The words as they stand."""
        data = self.buffer.data
        return [bytes(data[span[0] : span[1]]) for span in self.spans.tolist()]

    @property
    def n_bytes(self) -> int:
        """Length of all words together."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())


class Known(NamedTuple):
    """Tables of words, of which the first ``n_words`` may be read."""

    slots: UInt64
    words: Int64
    text: Bytes
    pieces: Int32
    n_words: int
    n_bytes: int
    n_pieces: int

    def has_room(self, n_words: int, n_bytes: int, n_pieces: int) -> bool:
        """Whether so many fit in all."""
        return (
            n_words <= len(self.words)
            and n_bytes <= self.text.size
            and n_pieces <= self.pieces.size
        )

    def added(self, where: Spans, rows: Int32, row_ends: Int64) -> Known:
        """The same tables with words behind, as many as there is room for."""
        tables = (self.slots, self.words, self.text, self.pieces)
        filled = add_words(*where, rows, row_ends, *self)
        return Known(*tables, *filled)

    def moved(self, room: Known) -> Known:
        """The words in tables with more room."""
        room.words[: self.n_words] = self.words[: self.n_words]
        room.text[: self.n_bytes] = self.text[: self.n_bytes]
        room.pieces[: self.n_pieces] = self.pieces[: self.n_pieces]
        move_words(room.words, room.text, UNFOLDED, self.n_words, room.slots)
        tables = (room.slots, room.words, room.text, room.pieces)
        return Known(*tables, self.n_words, self.n_bytes, self.n_pieces)


def room_for(n_words: int, n_bytes: int, n_pieces: int) -> Known:
    """Empty tables; their slots will be half full at most."""
    return Known(
        np.zeros(1 << (2 * n_words - 1).bit_length(), np.uint64),
        np.empty((n_words, N_COLUMNS), np.int64),
        np.empty(n_bytes, np.uint8),
        np.empty(n_pieces, np.int32),
        *(0, 0, 0),
    )


def table_of(words: Sequence[bytes], rows: Int32) -> Known:
    """Table of words that have a row each."""
    where = joined(words)
    room = room_for(max(1, len(words)), where.buffer.size, rows.size)
    return room.added(where, rows, np.arange(len(words) + 1))


def joined(words: Sequence[bytes]) -> Spans:
    """Words put in a row."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    ends = ends_of(lengths)
    spans = np.stack([ends[:-1], ends[1:]], axis=1)
    return Spans(np.frombuffer(b"".join(words), np.uint8), spans, UNFOLDED)


def ends_of(lengths: Int64) -> Int64:
    """0, then where each of consecutive pieces ends."""
    ends = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
