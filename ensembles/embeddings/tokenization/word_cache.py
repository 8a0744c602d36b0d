"""Cache of words and the rows of their subword tokens, in front of a tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.tokenization.hash_table import (
    Int32,
    Known,
    Rows,
    Spans,
    ends_of,
    joined,
    room_for,
)
from ensembles.embeddings.tokenization.text_loops import (
    OTHER,
    PLAIN,
    SINGLE,
    SPACE,
    WHOLE,
    find_words,
    parted,
    spell_out,
)
from ensembles.embeddings.tokenization.texts import Bytes, Encoded, Int64
from ensembles.embeddings.tokenization.wordpiece import WordPieces

# Tokenizes texts, or single words, and returns rows and offsets.
Resolve = Callable[[list[str]], Rows]

# Capacity of a cache, 48 MiB with its slots. Words are never evicted.
MOST_WORDS = 1 << 19
MOST_BYTES = 16 << 20
MOST_PIECES = 4 << 20
FEWEST = 1 << 13  # initial capacity in words


class Cuts(NamedTuple):
    """Characters at which a tokenizer splits every text, regardless of context.

    Attributes
    ----------
    kinds : ndarray of shape (256,), uint8
        Kind of each byte: ``WORD``, ``SPACE`` or ``SINGLE`` of `text_loops`.
    folded : ndarray of shape (256,), uint8
        Case folding of bytes: words that are equal after it have the same tokens.
    begins : ndarray of shape (256,), bool
        Whether an aside begins with the byte.
    asides : ndarray of shape (n_bytes,), uint8
        Concatenated UTF-8 of the asides. Texts that contain one are not split.
    aside_ends : ndarray of shape (n_asides + 1,), int64
        Offsets of the asides: 0, then the end of each.
    """

    kinds: Bytes
    folded: Bytes
    begins: NDArray[np.bool_]
    asides: Bytes
    aside_ends: Int64


def cuts(
    spaces: str, singles: str = "", *, fold: bool = False, asides: Sequence[str] = ()
) -> Cuts:
    """Build the byte tables for splits at ASCII characters.

    Parameters
    ----------
    spaces : str
        ASCII characters that separate words and are dropped.
    singles : str, default=""
        ASCII characters that are words by themselves.
    fold : bool, default=False
        Whether the tokenizer ignores the case of ASCII letters.
    asides : sequence of str, default=()
        Strings, such as added tokens, whose presence prevents splitting a text.

    Returns
    -------
    Cuts
        The byte tables.
    """
    kinds = np.zeros(256, np.uint8)
    kinds[list(spaces.encode("ascii"))] = SPACE
    kinds[list(singles.encode("ascii"))] = SINGLE
    folded = np.arange(256, dtype=np.uint8)
    if fold:
        folded[65:91] += 32
    whole = [text.encode() for text in asides if text]
    begins = np.zeros(256, np.bool_)
    begins[[text[0] for text in whole]] = True
    ends = ends_of(np.array([len(text) for text in whole], np.int64))
    return Cuts(kinds, folded, begins, joined(whole).buffer, ends)


class WordCache:
    """Thread-safe cache from words to rows, filled by a tokenizer.

    Readers use a snapshot of the tables and never wait: one thread at a time appends
    words after the last word of every snapshot, and a table that is full is replaced by
    a larger copy.

    Parameters
    ----------
    cuts : Cuts
        Characters at which texts are split into words.
    resolve : callable
        Tokenizes a list of str; returns rows and offsets.
    plain : WordPieces or None, default=None
        Compiled equivalent of ``resolve`` for words of ASCII letters and digits. None
        passes those to ``resolve`` too.
    most_words : int, default=MOST_WORDS
        Capacity in words; further words are tokenized every time.
    """

    def __init__(
        self,
        cuts: Cuts,
        resolve: Resolve,
        *,
        plain: WordPieces | None = None,
        most_words: int = MOST_WORDS,
    ) -> None:
        self._cuts = cuts
        self._plain = plain
        self._resolve = resolve
        self._most = most_words
        self._fold = cuts.folded.tobytes()
        self._lock = threading.Lock()
        self._known = room_for(min(FEWEST, most_words), FEWEST * 8, FEWEST * 2)

    def __len__(self) -> int:
        return self._known.n_words

    @property
    def n_bytes(self) -> int:
        """Memory of the tables in bytes."""
        return sum(table.nbytes for table in self._known[:4])

    def rows(self, texts: Encoded) -> Rows:
        """Rows of all tokens of texts, and their offsets of shape (n_texts + 1,)."""
        known = self._known
        n_missed, n_rows, rows, notes = find_words(*texts, *self._cuts, *known[:5])
        if not n_missed:
            return rows, notes
        n_texts = len(texts.offsets) - 1
        _, last, numbers, misses = parted(notes, n_texts)
        order, own, own_ends = self._learn(texts.buffer, misses[:n_missed])
        n_rows += int((own_ends[order + 1] - own_ends[order]).sum())
        rows, offsets = np.empty(n_rows, np.int32), np.empty(n_texts + 1, np.int64)
        spell_out(
            *(numbers, last, known.words, known.pieces),
            *(order, own, own_ends, rows, offsets),
        )
        return rows, offsets

    def _learn(self, buffer: Bytes, misses: Int64) -> tuple[Int64, Int32, Int64]:
        """Tokenizes the misses and caches their words.

        Returns the word number of each miss, the rows of those words and their offsets.
        """
        kinds = misses[:, 2]
        order = np.empty(len(misses), np.int64)
        found = [(NO_ROWS, NO_ENDS)]
        if self._plain is not None:
            plain = kinds == PLAIN
            kinds = np.where(plain, -1, kinds)
            where = Spans(buffer, misses[plain], self._cuts.folded)
            order[plain] = np.arange(len(where.spans))
            found.append(self._plain.rows(where))
            self._remember(where, *found[-1])
        n = len(found[-1][1]) - 1
        other, whole = kinds >= OTHER, kinds == WHOLE
        if other.any():
            words = Spans(buffer, misses[other], self._cuts.folded).words()
            folded = [word.translate(self._fold) for word in words]
            # Resolved in its original case: the folded word might be an added token.
            firsts = dict(zip(reversed(folded), reversed(words), strict=True))
            places = {word: n + place for place, word in enumerate(firsts)}
            order[other] = [places[word] for word in folded]
            found.append(self._resolved(list(firsts.values())))
            self._remember(joined(list(firsts)), *found[-1])
            n += len(firsts)
        if whole.any():
            order[whole] = np.arange(n, n + whole.sum())
            texts = Spans(buffer, misses[whole], self._cuts.folded).words()
            found.append(self._resolved(texts))
        rows = np.concatenate([rows for rows, _ in found])
        lengths = np.concatenate([np.diff(ends) for _, ends in found])
        return order, rows, ends_of(lengths)

    def _resolved(self, words: list[bytes]) -> Rows:
        return self._resolve([word.decode(errors="replace") for word in words])

    def _remember(self, where: Spans, rows: Int32, ends: Int64) -> None:
        """Appends words to the tables until they are full."""
        with self._lock:
            known = self._grown(len(where.spans), where.n_bytes, int(ends[-1]))
            self._known = known.added(where, rows, ends)

    def _grown(self, *more: int) -> Known:
        """Tables with room for more words, bytes and rows, up to the capacity."""
        known = self._known
        most = (self._most, MOST_BYTES, MOST_PIECES)
        sizes = [a + b for a, b in zip(known[4:], more, strict=True)]
        sizes = [min(a, b) for a, b in zip(sizes, most, strict=True)]
        if known.has_room(*sizes):
            return known
        doubled = [min(2 * a, b) for a, b in zip(sizes, most, strict=True)]
        return known.moved(room_for(*doubled))


NOTHING = np.empty(0, np.int64)
NO_ROWS, NO_ENDS = np.empty(0, np.int32), ends_of(NOTHING)
