# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled Unigram tokenization: the most probable segmentation of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.embeddings.tokenization.cached_tokenizer import (
    Int32,
    RaggedRows,
)
from ensembles.embeddings.tokenization.texts import (
    Bytes,
    WordSpans,
    join_words,
)
from ensembles.kernels.jit import compiled, inlined

PENALTY = 10.0  # of an unknown character, below the lowest score
# What takes the place of the space that begins a word: nothing; the mark of
# SentencePiece; the same, and words without a space also begin with the mark.
KEEP, REPLACE, PREPEND = 0, 1, 2
NO_ROW = -2
N_FEW = 8  # children that are searched one by one


class Pieces(NamedTuple):
    """Pieces of a Unigram model, in the order of their ids.

    Attributes
    ----------
    text : ndarray of shape (n_bytes,), uint8
        Concatenated UTF-8 of the pieces.
    ends : ndarray of shape (n_pieces + 1,), int32
        Offsets of the pieces: 0, then the end of each.
    scores : ndarray of shape (n_pieces,), float64
        Their logarithms of probability.
    """

    text: Bytes
    ends: Int32
    scores: Float64

    def ids_of(self, pieces: Sequence[bytes]) -> list[int]:
        """Last id of each of a few pieces; -1 for none."""
        text = self.text.tobytes()
        ids = []
        for piece in pieces:
            found = self._containing(piece, text)
            same = [n for n in found if self.ends[n + 1] - self.ends[n] == len(piece)]
            ids.append(same[-1] if same else -1)
        return ids

    def n_containing(self, piece: bytes) -> int:
        """How many times other pieces, and itself, contain a piece."""
        return len(self._containing(piece, self.text.tobytes()))

    def _containing(self, piece: bytes, text: bytes) -> list[int]:
        found = []
        at = text.find(piece)
        while at >= 0:
            number = int(np.searchsorted(self.ends[1:], at, "right"))
            if at + len(piece) <= self.ends[number + 1]:
                found.append(number)
            at = text.find(piece, at + 1)
        return found


def pieces_of(vocabulary: Sequence[Sequence[Any]]) -> Pieces:
    """Pieces of the vocabulary of a ``tokenizer.json``.

    Parameters
    ----------
    vocabulary : sequence of (str, float)
        Pieces and scores.

    Returns
    -------
    Pieces
    """
    words = join_words([piece.encode() for piece, _ in vocabulary])
    ends = np.append(0, words.spans[:, 1]).astype(np.int32)
    scores = np.array([score for _, score in vocabulary], np.float64)
    return Pieces(words.buffer, ends, scores)


class Trie(NamedTuple):
    """Pieces as a tree of bytes, level by level: about 20 bytes for each piece.

    Attributes
    ----------
    labels : ndarray of shape (n_nodes,), uint8
        Byte that leads to each node; the children of a node are sorted by it.
    first : ndarray of shape (n_nodes + 1,), int32
        Number of the first child of each node, which is the end of the children of the
        node before.
    is_piece : ndarray of uint64
        One bit for each node: whether a piece ends there.
    ranks : ndarray of int32
        Number of pieces that end before the nodes of each word of ``is_piece``.
    """

    labels: Bytes
    first: Int32
    is_piece: NDArray[np.uint64]
    ranks: Int32


class FastUnigram:
    """Unigram tokenization of words that need no normalization but case folding.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json`` of type Unigram; its vocabulary
        is not used.
    pieces : Pieces
        The vocabulary.
    row_of : ndarray of shape (n_ids,), int32
        Row of each token id; -1 for none.
    space : int
        What takes the place of the space that begins a word: `KEEP`, `REPLACE` or
        `PREPEND`.

    References
    ----------
    Kudo (2018), "Subword regularization", section 3.1. Sums in float64 and ties as in
    ``tokenizers``: of equal scores, the segmentation with the longer last piece counts.
    """

    def __init__(
        self, model: Mapping[str, Any], pieces: Pieces, row_of: Int32, space: int
    ) -> None:
        labels, first, is_end, ids = build_trie(pieces.text, pieces.ends)
        bits = np.zeros(-(-is_end.size // 64) * 64, np.bool_)
        bits[: is_end.size] = is_end
        words = np.packbits(bits, bitorder="little").view(np.uint64)
        counts = bits.reshape(-1, 64).sum(axis=1)
        ranks = np.append(0, np.cumsum(counts)[:-1]).astype(np.int32)
        self._trie = Trie(labels, first, words, ranks)
        self._rows, self._scores = row_of[ids], pieces.scores[ids]
        unknown: int = model["unk_id"]
        self._unknown_score = float(pieces.scores.min()) - PENALTY
        is_unknown = np.flatnonzero(ids == unknown)
        self._unknown_piece = int(is_unknown[0]) if is_unknown.size else -1
        self._unknown_row = int(row_of[unknown])
        self._byte_rows = np.full(256, NO_ROW, np.int32)
        if model.get("byte_fallback"):
            names = pieces.ids_of([b"<0x%02X>" % byte for byte in range(256)])
            rows = np.append(row_of, np.int32(NO_ROW))[names]
            self._byte_rows[:] = rows
        self._space = space

    def __call__(self, words: WordSpans) -> RaggedRows:
        """Tokenize words of a text, with the space that begins them."""
        return self._segment(words, self._space)

    def encode(self, part: str) -> bytes:
        """The bytes of a part of a text that is normalized already."""
        return part.encode()

    def segment(self, words: WordSpans) -> RaggedRows:
        """Tokenize words that are normalized already."""
        return self._segment(words, KEEP)

    def _segment(self, words: WordSpans, space: int) -> RaggedRows:
        rows = np.empty(words.n_bytes + 3 * len(words.spans), np.int32)
        offsets = np.empty(len(words.spans) + 1, np.int64)
        n_rows: int = segment_words(
            *words,
            *(space, *self._trie, self._rows, self._scores),
            *(self._unknown_score, self._unknown_piece, self._unknown_row),
            *(self._byte_rows, rows, offsets),
        )
        return RaggedRows(rows[:n_rows].copy(), offsets)


def can_segment(model: Mapping[str, Any], pieces: Pieces) -> bool:
    """Whether `FastUnigram` tokenizes exactly as the package tokenizers.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json`` of type Unigram.
    pieces : Pieces
        Its vocabulary.

    Returns
    -------
    bool
    """
    unknown, n_pieces = model["unk_id"], len(pieces.scores)
    if unknown is None or not 0 <= unknown < n_pieces:
        return False
    # Neighboring unknown characters are one token, or a piece if their text is one:
    # they must never score more than that piece, and none contains the unknown piece.
    if not np.diff(pieces.ends).min() or pieces.scores.min() >= PENALTY:
        return False
    start, stop = pieces.ends[unknown : unknown + 2]
    return pieces.n_containing(pieces.text[start:stop].tobytes()) == 1


@compiled
def build_trie(text, ends):
    """Sort pieces into a tree; see `Trie`.

    Returns the labels, the first children, whether a piece ends at each node, and the
    ids of the pieces in the order of their nodes. Of equal pieces, the last counts.
    """
    n_pieces = ends.size - 1
    size = ends[n_pieces] + 2
    labels, first = np.empty(size, np.uint8), np.empty(size, np.int32)
    lows, highs = np.empty(size, np.int32), np.empty(size, np.int32)
    is_end = np.zeros(size, np.bool_)
    order = np.arange(n_pieces).astype(np.int32)
    moved, ids = np.empty(n_pieces, np.int32), np.empty(n_pieces, np.int32)
    counts = np.zeros(257, np.int64)
    labels[0], lows[0], highs[0] = 0, 0, n_pieces
    n_nodes, n_ids, level_end, depth = 1, 0, 1, 0
    node = 0
    while node < n_nodes:
        if node == level_end:
            level_end, depth = n_nodes, depth + 1
        low, high = lows[node], highs[node]
        first[node] = n_nodes
        counts[:] = 0
        for k in range(low, high):
            start, stop = ends[order[k]], ends[order[k] + 1]
            counts[
                np.int64(text[start + depth]) + 1 if start + depth < stop else 0
            ] += 1
        at = low
        for value in range(257):
            count = counts[value]
            counts[value] = at
            if count and not value:
                is_end[node] = True
            elif count:
                labels[n_nodes], lows[n_nodes] = value - 1, at
                highs[n_nodes] = at + count
                n_nodes += 1
            at += count
        for k in range(low, high):
            start, stop = ends[order[k]], ends[order[k] + 1]
            entry = np.int64(text[start + depth]) + 1 if start + depth < stop else 0
            moved[counts[entry]] = order[k]
            counts[entry] += 1
        order[low:high] = moved[low:high]
        if is_end[node]:
            ids[n_ids] = order[counts[0] - 1]
            n_ids += 1
        node += 1
    first[n_nodes] = n_nodes
    return (
        labels[:n_nodes].copy(),
        first[: n_nodes + 1].copy(),
        is_end[:n_nodes].copy(),
        ids[:n_ids].copy(),
    )


@inlined
def _child(labels, low, high, byte):
    """Node among some sorted ones to which a byte leads, or -1."""
    while high - low > N_FEW:
        middle = (low + high) >> 1
        if labels[middle] <= byte:
            low = middle
        else:
            high = middle
    found = np.int64(-1)
    while low < high:
        if labels[low] == byte:
            found = np.int64(low)
            break
        low += 1
    return found


@inlined
def _rank(node, is_piece, ranks):
    """Number of pieces that end before a node, or -1 if none ends at it."""
    bits = is_piece[node >> 6]
    shift = np.uint64(node & 63)
    number = np.int64(-1)
    if bits >> shift & np.uint64(1):
        bits &= (np.uint64(1) << shift) - np.uint64(1)
        bits -= bits >> np.uint64(1) & np.uint64(0x5555555555555555)
        pairs = bits >> np.uint64(2) & np.uint64(0x3333333333333333)
        bits = (bits & np.uint64(0x3333333333333333)) + pairs
        bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        count = bits * np.uint64(0x0101010101010101) >> np.uint64(56)
        number = np.int64(ranks[node >> 6]) + np.int64(count)
    return number


@compiled
def _search(
    sentence,
    n,
    labels,
    first,
    is_piece,
    ranks,
    piece_scores,
    unknown_score,
    scores,
    origins,
    numbers,
):
    """Find the best segmentation that ends at each byte of a word."""
    for end in range(n + 1):
        origins[end] = -1
    scores[0] = 0.0
    j: Any = 0
    while j < n:
        byte = np.int64(sentence[j])
        length: Any = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
        total, is_known = scores[j], False
        node: Any = np.int64(0)
        at = j
        while at < n:
            node = _child(labels, first[node], first[node + 1], sentence[at])
            if node < 0:
                break
            at += 1
            number = _rank(node, is_piece, ranks)
            if number >= 0:
                is_known = is_known or at - j == length
                score = piece_scores[number] + total
                if origins[at] < 0 or score > scores[at]:
                    scores[at], origins[at], numbers[at] = score, j, number
        at = j + length
        if not is_known and (origins[at] < 0 or unknown_score + total > scores[at]):
            scores[at], origins[at], numbers[at] = unknown_score + total, j, -1
        j += length


@compiled
def _unknown_rows(sentence, start, stop, byte_rows, unknown_row, rows, n):
    """Append, in reverse, the rows of unknown characters: of their bytes, or one."""
    has_rows = True
    for j in range(start, stop):
        has_rows = has_rows and byte_rows[sentence[j]] != NO_ROW
    if not has_rows:
        rows[n] = unknown_row
        return n + 1
    for j in range(stop - 1, start - 1, -1):
        rows[n] = byte_rows[sentence[j]]
        n += 1
    return n


@compiled
def copy_word(buffer, start, stop, folded, space, sentence):
    """Copy a word, folded and with its space replaced; returns its length."""
    n = 0
    is_spaced = start < stop and buffer[start] == 32
    if space == PREPEND or (space == REPLACE and is_spaced):
        sentence[0], sentence[1], sentence[2] = 0xE2, 0x96, 0x81
        n = 3
        start += is_spaced
    for j in range(start, stop):
        sentence[n] = folded[buffer[j]]
        n += 1
    return n


@compiled
def segment_words(
    buffer,
    spans,
    folded,
    space,
    labels,
    first,
    is_piece,
    ranks,
    piece_rows,
    piece_scores,
    unknown_score,
    unknown_piece,
    unknown_row,
    byte_rows,
    rows,
    row_ends,
):
    """Segment words into the pieces of the highest total score; returns their number.

    Neighboring unknown characters are one token.
    """
    longest = 0
    for i in range(len(spans)):
        longest = max(longest, spans[i, 1] - spans[i, 0])
    sentence = np.empty(longest + 3, np.uint8)
    scores = np.empty(longest + 4, np.float64)
    origins = np.empty(longest + 4, np.int64)
    numbers = np.empty(longest + 4, np.int64)
    n = 0
    row_ends[0] = 0
    for i in range(len(spans)):
        stop = copy_word(buffer, spans[i, 0], spans[i, 1], folded, space, sentence)
        _search(
            sentence,
            stop,
            labels,
            first,
            is_piece,
            ranks,
            piece_scores,
            unknown_score,
            scores,
            origins,
            numbers,
        )
        before = n
        while stop > 0:
            start, number = origins[stop], numbers[stop]
            if number >= 0 and number != unknown_piece:
                rows[n] = piece_rows[number]
                n += 1
            else:
                n_fused = 1
                while start > 0 and (
                    numbers[start] < 0 or numbers[start] == unknown_piece
                ):
                    start = origins[start]
                    n_fused += 1
                if number == unknown_piece and n_fused == 1:
                    rows[n] = unknown_row
                    n += 1
                else:
                    n = _unknown_rows(
                        sentence, start, stop, byte_rows, unknown_row, rows, n
                    )
            stop = start
        for j in range((n - before) >> 1):
            rows[before + j], rows[n - 1 - j] = rows[n - 1 - j], rows[before + j]
        row_ends[i + 1] = n
    return n
