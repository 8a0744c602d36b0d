# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled Unigram tokenization: the most probable segmentation of words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.embeddings.tokenization.cached_tokenizer import (
    Int32,
    RaggedRows,
    WordSpans,
)
from ensembles.embeddings.tokenization.texts import Bytes
from ensembles.kernels.jit import compiled

PENALTY = 10.0  # of an unknown character, below the lowest score
# What takes the place of the space that begins a word: nothing; the mark of
# SentencePiece; the same, and words without a space also begin with the mark.
KEEP, REPLACE, PREPEND = 0, 1, 2
NO_ROW = -2


class FastUnigram:
    """Unigram tokenization of words that need no normalization but case folding.

    Pieces are kept as one sorted buffer of UTF-8, which takes about 30 bytes a piece.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json`` of type Unigram.
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

    def __init__(self, model: Mapping[str, Any], row_of: Int32, space: int) -> None:
        scores = [score for _, score in model["vocab"]]
        id_of = {piece.encode(): n for n, (piece, _) in enumerate(model["vocab"])}
        unknown: int = model["unk_id"]
        pieces = sorted(id_of, key=lambda piece: (len(piece) > 1, piece))
        ids = np.fromiter((id_of[piece] for piece in pieces), np.int64, len(pieces))
        self._text: Bytes = np.frombuffer(b"".join(pieces), np.uint8)
        ends = accumulate(map(len, pieces), initial=0)
        self._ends: Int32 = np.fromiter(ends, np.int32, len(pieces) + 1)
        self._rows = row_of[ids]
        self._scores: Float64 = np.array(scores, np.float64)[ids]
        self._first = _first_pieces(pieces)
        self._unknown_score = min(scores) - PENALTY
        is_unknown = np.flatnonzero(ids == unknown)
        self._unknown_piece = int(is_unknown[0]) if is_unknown.size else -1
        self._unknown_row = int(row_of[unknown])
        self._byte_rows = np.full(256, NO_ROW, np.int32)
        for byte in range(256 if model.get("byte_fallback") else 0):
            number = id_of.get(b"<0x%02X>" % byte)
            self._byte_rows[byte] = NO_ROW if number is None else row_of[number]
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
            *(space, self._text, self._ends, self._rows, self._scores, self._first),
            *(self._unknown_score, self._unknown_piece, self._unknown_row),
            *(self._byte_rows, rows, offsets),
        )
        return RaggedRows(rows[:n_rows].copy(), offsets)


def can_segment(model: Mapping[str, Any]) -> bool:
    """Whether `FastUnigram` tokenizes exactly as the package tokenizers.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json``.

    Returns
    -------
    bool
    """
    if model["type"] != "Unigram" or model["unk_id"] is None or not model["vocab"]:
        return False
    scores = [score for _, score in model["vocab"]]
    # Several unknown characters must never score more than one piece of theirs.
    return min(scores) < PENALTY and all(piece for piece, _ in model["vocab"])


def _first_pieces(pieces: list[bytes]) -> Int32:
    """Numbers of pieces of one byte, -1 for none, then bounds of pairs of bytes."""
    first = np.full(256 + (1 << 16) + 1, -1, np.int32)
    n_single = 0
    for number, piece in enumerate(pieces):
        if len(piece) > 1:
            break
        first[piece[0]] = number
        n_single += 1
    rest = pieces[n_single:]
    codes = np.fromiter((piece[0] << 8 | piece[1] for piece in rest), np.int64)
    bounds = np.searchsorted(codes, np.arange((1 << 16) + 1))
    first[256:] = n_single + bounds
    return first


@compiled
def _bound(text, ends, low, high, depth, byte):
    """First of some sorted pieces whose byte at a depth is not below ``byte``."""
    while low < high:
        middle = (low + high) >> 1
        if np.int64(text[ends[middle] + depth]) < byte:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _narrow(text, ends, low, high, depth, byte):
    """Bounds of the sorted pieces, out of some, that have a byte at a depth."""
    if text[ends[low] + depth] != byte or text[ends[high - 1] + depth] != byte:
        low = _bound(text, ends, low, high, depth, byte)
        # A few pieces are left: they are counted one by one.
        n = 0
        while low + n < high and n < 8 and text[ends[low + n] + depth] == byte:
            n += 1
        high = low + n if n < 8 else _bound(text, ends, low, high, depth, byte + 1)
    return low, high


@compiled
def _reach(node, at, length, number, score, total, scores, origins, numbers):
    """Record a piece that leads from one position to another, if it is the best."""
    stop = node + length
    if origins[stop] < 0 or total + score > scores[stop]:
        scores[stop] = total + score
        origins[stop] = node
        numbers[stop] = number


@compiled
def _search(
    sentence,
    n,
    text,
    ends,
    piece_scores,
    first,
    unknown_score,
    scores,
    origins,
    numbers,
):
    """Find the best segmentation that ends at each byte of a word."""
    for j in range(n + 1):
        origins[j] = -1
    scores[0] = 0.0
    j = 0
    while j < n:
        byte = np.int64(sentence[j])
        length = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
        total, is_known = scores[j], False
        number = first[byte]
        if number >= 0:
            _reach(
                j, j, 1, number, piece_scores[number], total, scores, origins, numbers
            )
            is_known = True
        low = high = 0
        if j + 1 < n:
            pair = 256 + (byte << 8 | np.int64(sentence[j + 1]))
            low, high = np.int64(first[pair]), np.int64(first[pair + 1])
        depth = 2
        while low < high:
            if ends[low + 1] - ends[low] == depth:
                score = piece_scores[low]
                _reach(j, j, depth, low, score, total, scores, origins, numbers)
                is_known = is_known or depth == length
                low += 1
            if low >= high or j + depth >= n:
                break
            byte = np.int64(sentence[j + depth])
            low, high = _narrow(text, ends, low, high, depth, byte)
            depth += 1
        if not is_known:
            _reach(j, j, length, -1, unknown_score, total, scores, origins, numbers)
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
    text,
    ends,
    piece_rows,
    piece_scores,
    first,
    unknown_score,
    unknown_piece,
    unknown_row,
    byte_rows,
    rows,
    row_ends,
):
    """Segment words into the pieces of the highest total score; returns their number.

    Neighboring unknown characters are one token. ``first`` holds the numbers of the
    pieces of one byte, then bounds of the pieces that begin with each pair of bytes.
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
            text,
            ends,
            piece_scores,
            first,
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
