"""Tokenizers that look words up in a hash table before they tokenize them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.tokenization.texts import (
    UNFOLDED,
    Bytes,
    Int64,
    TextBatch,
    Utf8Texts,
    WordSpans,
    as_batches,
    decode_utf8,
    decode_words,
    encode_utf8,
    iter_slices,
    join_words,
    n_texts,
    to_offsets,
)
from ensembles.embeddings.tokenization.word_loops import (
    ALPHANUMERIC,
    N_COLUMNS,
    OTHER,
    SINGLE,
    SPACE,
    UNSPLIT,
    add_words,
    find_words,
    gather_rows,
    move_words,
    split_notes,
)

Int32 = NDArray[np.int32]
UInt64 = NDArray[np.uint64]

# Capacity of the hash table, 48 MiB with its slots. Words are never evicted.
MAX_WORDS = 1 << 19
MAX_BYTES = 16 << 20
MAX_PIECES = 4 << 20
MIN_WORDS = 1 << 13  # initial capacity


class RaggedRows(NamedTuple):
    """Rows of the tokens of all texts, stored one text after the other.

    Attributes
    ----------
    rows : ndarray of shape (n_tokens,), int32
        Row of each token in the vector table; -1 for out-of-vocabulary tokens.
    offsets : ndarray of shape (n_texts + 1,), int64
        Text ``i`` has the tokens from ``offsets[i]`` to ``offsets[i + 1] - 1``.
    """

    rows: Int32
    offsets: Int64


# Tokenizes texts, or single words.
Resolve = Callable[[list[str]], RaggedRows]


class Tokenizer:
    """Map texts to rows of a vector table; instances are thread-safe.

    `ensembles.embeddings.tokenization.tokenizer.make_tokenizer` creates one.

    Parameters
    ----------
    resolve : callable
        Tokenizes a list of str; returns `RaggedRows`.
    """

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    def __call__(self, texts: Any) -> RaggedRows:
        """Tokenize texts.

        Parameters
        ----------
        texts : sequence, array or column of str, or an iterable
            Texts. If pyarrow is installed, pyarrow, pandas and polars columns are read
            without a copy. None, NaN and other missing values have no tokens. A lone
            surrogate counts as U+FFFD.

        Returns
        -------
        RaggedRows
            Rows and offsets of all texts.

        Raises
        ------
        TypeError
            If ``texts`` is a single str, or an element is neither a str nor missing.
        """
        tokenized, first = [], 0
        for batch in as_batches(texts):
            slices = iter_slices(batch, first)
            tokenized += [self.tokenize(part, start) for start, part in slices]
            first += n_texts(batch)
        if len(tokenized) == 1:
            return tokenized[0]
        return concatenate(tokenized)

    def tokenize(self, batch: TextBatch, first: int = 0) -> RaggedRows:
        """Tokenize a batch; ``first`` is the index of its first text, for messages."""
        return self._resolve(decode_utf8(batch, first))

    def without_phrases(self, ragged: RaggedRows) -> RaggedRows:
        """Rows of the tokens alone; a tokenizer of phrases removes theirs."""
        return ragged


def concatenate(tokenized: Sequence[RaggedRows]) -> RaggedRows:
    """Concatenate the rows of several batches."""
    rows = [np.empty(0, np.int32), *(ragged.rows for ragged in tokenized)]
    lengths = [
        np.empty(0, np.int64),
        *(np.diff(ragged.offsets) for ragged in tokenized),
    ]
    return RaggedRows(np.concatenate(rows), to_offsets(np.concatenate(lengths)))


class Found(NamedTuple):
    """Words of texts that were looked up in a table, see `find_words`.

    Attributes
    ----------
    buffer : ndarray of shape (n_bytes,), uint8
        UTF-8 of the texts, to which the spans of misses refer.
    n_missed : int
        Number of words that the table lacks.
    n_rows : int
        Number of rows of the words in the table.
    rows : ndarray of int32
        Rows of all words if none is missing.
    notes : ndarray of int64
        Offsets of the rows, or with misses the notes of `find_words`.
    """

    buffer: Bytes
    n_missed: int
    n_rows: int
    rows: Int32
    notes: Int64


class BoundaryTable(NamedTuple):
    """Characters at which a tokenizer splits every text, regardless of context.

    Attributes
    ----------
    kinds : ndarray of shape (256,), uint8
        Kind of each byte: ``WORD``, ``SPACE`` or ``SINGLE`` of `word_loops`.
    folded : ndarray of shape (256,), uint8
        Case folding of bytes: words that are equal after it have the same tokens.
    begins : ndarray of shape (256,), bool
        Whether a special token begins with the byte.
    special : ndarray of shape (n_bytes,), uint8
        Concatenated UTF-8 of the special tokens. Texts that contain one are not split.
    special_ends : ndarray of shape (n_special + 1,), int64
        Offsets of the special tokens: 0, then the end of each.
    """

    kinds: Bytes
    folded: Bytes
    begins: NDArray[np.bool_]
    special: Bytes
    special_ends: Int64

    def find(self, texts: Utf8Texts, table: WordTable) -> Found:
        """Split texts and look their words up.

        Parameters
        ----------
        texts : Utf8Texts
            Texts with int64 offsets.
        table : WordTable
            Known words.

        Returns
        -------
        Found
            The words.
        """
        return Found(texts.buffer, *find_words(*texts, *self, *table[:5]))


def boundary_table(
    spaces: str,
    singles: str = "",
    *,
    fold: bool = False,
    special_tokens: Sequence[str] = (),
) -> BoundaryTable:
    """Build the byte tables for splits at ASCII characters.

    Parameters
    ----------
    spaces : str
        ASCII characters that separate words and are dropped.
    singles : str, default=""
        ASCII characters that are words by themselves.
    fold : bool, default=False
        Whether the tokenizer ignores the case of ASCII letters.
    special_tokens : sequence of str, default=()
        Strings, such as added tokens, whose presence prevents splitting a text.

    Returns
    -------
    BoundaryTable
        The byte tables.
    """
    kinds = np.zeros(256, np.uint8)
    kinds[list(spaces.encode("ascii"))] = SPACE
    kinds[list(singles.encode("ascii"))] = SINGLE
    folded = np.arange(256, dtype=np.uint8)
    if fold:
        folded[65:91] += 32
    return BoundaryTable(kinds, folded, *special_table(special_tokens))


def special_table(
    special_tokens: Sequence[str],
) -> tuple[NDArray[np.bool_], Bytes, Int64]:
    """Build the tables by which texts with special tokens are recognized.

    Parameters
    ----------
    special_tokens : sequence of str
        The tokens.

    Returns
    -------
    begins, special, special_ends : ndarray
        As in `BoundaryTable`.
    """
    special = [token.encode() for token in special_tokens if token]
    begins = np.zeros(256, np.bool_)
    begins[[token[0] for token in special]] = True
    ends = to_offsets(np.array([len(token) for token in special], np.int64))
    return begins, join_words(special).buffer, ends


class WordTable(NamedTuple):
    """Arrays of a hash table from words to the rows of their tokens.

    Readers see only the first ``n_words`` words.
    """

    slots: UInt64
    words: Int64
    text: Bytes
    pieces: Int32
    n_words: int
    n_bytes: int
    n_pieces: int

    def with_words(self, words: WordSpans, ragged: RaggedRows) -> WordTable:
        """Append words, as many as fit; the arrays are shared with this table."""
        return WordTable(*self[:4], *add_words(*words, *ragged, *self))

    def grown(self, sizes: Sequence[int]) -> WordTable:
        """Copy the table into arrays for so many words, bytes and rows."""
        table = empty_table(*sizes)
        table.words[: self.n_words] = self.words[: self.n_words]
        table.text[: self.n_bytes] = self.text[: self.n_bytes]
        table.pieces[: self.n_pieces] = self.pieces[: self.n_pieces]
        move_words(table.words, table.text, UNFOLDED, self.n_words, table.slots)
        return WordTable(*table[:4], *self[4:])


def empty_table(n_words: int, n_bytes: int, n_pieces: int) -> WordTable:
    """Empty hash table with a load factor of at most one half."""
    return WordTable(
        np.zeros(1 << (2 * n_words - 1).bit_length(), np.uint64),
        np.empty((n_words, N_COLUMNS), np.int64),
        np.empty(n_bytes, np.uint8),
        np.empty(n_pieces, np.int32),
        *(0, 0, 0),
    )


def word_table(words: Sequence[bytes], rows: Int32) -> WordTable:
    """Hash table of words with one row each."""
    spans = join_words(words)
    ragged = RaggedRows(rows, np.arange(len(words) + 1))
    table = empty_table(max(1, len(words)), spans.buffer.size, rows.size)
    added = table.with_words(spans, ragged)
    # A word that finds no free slot nearby needs a larger table.
    while added.n_words < len(words) and table.slots.size < 64 * len(words):
        table = table._replace(slots=np.zeros(2 * table.slots.size, np.uint64))
        added = table.with_words(spans, ragged)
    return added


class Splitter(Protocol):
    """Splits texts into words: `BoundaryTable` or `PatternTable`."""

    @property
    def folded(self) -> Bytes:
        """Case folding of bytes."""

    def find(self, texts: Utf8Texts, table: WordTable) -> Found:
        """Split texts and look their words up."""


class CachedTokenizer(Tokenizer):
    """Tokenizer with a hash table in front, from words to the rows of their tokens.

    Texts are split into words at boundaries that the tokenizer never crosses. Words in
    the table need no tokenization; `resolve` tokenizes the others, which are then added
    to the table. Readers use a snapshot of the table and never wait: one thread at a
    time appends words after the last word of every snapshot, and a table that is full
    is replaced by a larger copy. A pickle does not contain the table.

    Parameters
    ----------
    resolve : callable
        Tokenizes a list of str; returns `RaggedRows`.
    boundaries : BoundaryTable or PatternTable
        Characters or pattern by which texts are split into words.
    fast : callable or None, default=None
        Compiled equivalent of ``resolve`` for words of ASCII letters and digits, or for
        words that the pattern marks as not normalized. None passes those to ``resolve``
        too.
    max_words : int, default=MAX_WORDS
        Capacity in words; further words are tokenized every time.
    """

    def __init__(
        self,
        resolve: Resolve,
        boundaries: Splitter,
        fast: Callable[[WordSpans], RaggedRows] | None = None,
        *,
        max_words: int = MAX_WORDS,
    ) -> None:
        super().__init__(resolve)
        self._boundaries = boundaries
        self._fast = fast
        self._max_words = max_words
        self._fold = boundaries.folded.tobytes()
        self._lock = threading.Lock()
        self._table = empty_table(
            min(MIN_WORDS, max_words), MIN_WORDS * 8, MIN_WORDS * 2
        )

    def __reduce__(self) -> tuple[type[CachedTokenizer], tuple[Any, ...]]:
        return type(self), (self._resolve, self._boundaries, self._fast)

    @property
    def n_words(self) -> int:
        """Number of words in the table."""
        return self._table.n_words

    @property
    def n_bytes(self) -> int:
        """Memory of the table in bytes."""
        return sum(array.nbytes for array in self._table[:4])

    def tokenize(self, batch: TextBatch, first: int = 0) -> RaggedRows:
        """Tokenize a batch; ``first`` is the index of its first text, for messages."""
        count = n_texts(batch)
        if not count:
            return RaggedRows(np.empty(0, np.int32), np.zeros(1, np.int64))
        texts, table = encode_utf8(batch, first), self._table
        buffer, n_missed, n_rows, rows, notes = self._boundaries.find(texts, table)
        if not n_missed:
            return RaggedRows(rows, notes)
        _, ends, numbers, misses = split_notes(notes, count)
        order, resolved = self._resolve_misses(buffer, misses[:n_missed])
        n_rows += int(np.diff(resolved.offsets)[order].sum())
        rows, offsets = np.empty(n_rows, np.int32), np.empty(count + 1, np.int64)
        gather_rows(
            *(numbers, ends, table.words, table.pieces),
            *(order, *resolved, rows, offsets),
        )
        return RaggedRows(rows, offsets)

    def _resolve_misses(self, buffer: Bytes, misses: Int64) -> tuple[Int64, RaggedRows]:
        """Tokenize words that the table lacks, and add them to it.

        Returns the number of each miss among the tokenized words, and their rows.
        """
        kinds = misses[:, 2]
        numbers = np.empty(len(misses), np.int64)
        resolved = []
        n_words = 0
        if self._fast is not None:
            is_fast = kinds == ALPHANUMERIC
            words = WordSpans(buffer, misses[is_fast], self._boundaries.folded)
            resolved.append(self._fast(words))
            self._add(words, resolved[-1])
            n_words = len(words.spans)
            numbers[is_fast] = np.arange(n_words)
            kinds = np.where(is_fast, -1, kinds)
        is_word, is_unsplit = kinds >= OTHER, kinds == UNSPLIT
        if is_word.any():
            words = WordSpans(buffer, misses[is_word], self._boundaries.folded)
            originals = words.words()
            folded = [word.translate(self._fold) for word in originals]
            # Resolved in its original case: the folded word might be an added token.
            distinct = dict(zip(reversed(folded), reversed(originals), strict=True))
            number_of = {word: n_words + n for n, word in enumerate(distinct)}
            numbers[is_word] = [number_of[word] for word in folded]
            resolved.append(self._resolve(decode_words(distinct.values())))
            self._add(join_words(list(distinct)), resolved[-1])
            n_words += len(distinct)
        if is_unsplit.any():
            texts = WordSpans(buffer, misses[is_unsplit], UNFOLDED).words()
            numbers[is_unsplit] = np.arange(n_words, n_words + len(texts))
            resolved.append(self._resolve(decode_words(texts)))
        return numbers, concatenate(resolved)

    def _add(self, words: WordSpans, ragged: RaggedRows) -> None:
        """Append words to the table, up to its capacity."""
        sizes_added = (len(words.spans), words.n_bytes, int(ragged.offsets[-1]))
        limits = (self._max_words, MAX_BYTES, MAX_PIECES)
        with self._lock:
            table = self._table
            totals = zip(table[4:], sizes_added, limits, strict=True)
            needed = [min(a + b, limit) for a, b, limit in totals]
            capacities = (len(table.words), table.text.size, table.pieces.size)
            if any(
                size > capacity
                for size, capacity in zip(needed, capacities, strict=True)
            ):
                sizes = zip(needed, limits, strict=True)
                table = table.grown(
                    [min(2 * size, capacity) for size, capacity in sizes]
                )
            self._table = table.with_words(words, ragged)
