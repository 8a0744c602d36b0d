# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled byte-pair encoding (BPE) of bytes or characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.cached_tokenizer import (
    Int32,
    RaggedRows,
    empty_table,
    word_table,
)
from ensembles.embeddings.tokenization.pattern_loops import code_point
from ensembles.embeddings.tokenization.texts import (
    WordSpans,
)
from ensembles.embeddings.tokenization.word_loops import (
    FIRST,
    ONE,
    equals,
    find,
    hash_word,
    mix,
)
from ensembles.kernels.jit import compiled

META = "\u2581"
LONGEST_KNOWN = 63  # characters, 252 bytes: the length of a cached word is one byte
LONG = 128  # ids from which a priority queue is faster than a search
MOST_RANK = np.iinfo(np.int32).max
SETTINGS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def byte_alphabet() -> str:
    """The characters that stand for the 256 bytes in byte-level vocabularies.

    Returns
    -------
    str of length 256

    References
    ----------
    Radford et al. (2019), "Language models are unsupervised multitask learners": bytes
    that are printable in Latin-1 stand for themselves, others for U+0100 onwards.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (chr(code) for code in range(256, 512))
    return "".join(chr(b) if b in printable else next(others) for b in range(256))


class FastBytePairs:
    """Byte-pair encoding of words that need no normalization.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json`` of type BPE.
    row_of : ndarray of shape (n_ids,), int32
        Row of each token id; -1 for none.
    is_byte_level : bool
        Whether the vocabulary is written in `byte_alphabet`. Otherwise its symbols are
        characters, and a space is the mark of SentencePiece.
    adds_space : bool, default=False
        Whether a word that does not begin with a space gets one.

    References
    ----------
    Sennrich, Haddow & Birch (2016), "Neural machine translation of rare words with
    subword units", algorithm 1; of several pairs of the lowest rank, the leftmost is
    merged first, as in ``tokenizers``.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        row_of: Int32,
        is_byte_level: bool,
        *,
        adds_space: bool = False,
    ) -> None:
        vocabulary: Mapping[str, int] = model["vocab"]
        self._row_of = row_of
        self._is_byte_level, self._adds_space = is_byte_level, adds_space
        alphabet = byte_alphabet()
        self._byte_of = {ord(char): byte for byte, char in enumerate(alphabet)}
        if is_byte_level:
            self._symbols = self._spaced = _ids(vocabulary, list(alphabet))
        else:
            singles = [ord(piece) for piece in vocabulary if len(piece) == 1]
            self._symbols = np.full(max(singles, default=0) + 33, -1, np.int32)
            self._symbols[singles] = [vocabulary[chr(code)] for code in singles]
            self._spaced = self._symbols.copy()
            self._spaced[ord(" ")] = vocabulary.get(META, -1)
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        self._bytes = _ids(vocabulary, names if model["byte_fallback"] else [])
        self._unknown = vocabulary.get(model["unk_token"] or "", -1)
        self._fuses = bool(model["fuse_unk"])
        self._known = empty_table(1, 0, 0)
        if model["ignore_merges"]:
            pieces = [*vocabulary.items()]
            if is_byte_level:
                pieces = [pair for pair in pieces if not {*pair[0]} - {*alphabet}]
            words = {self.encode(piece): number for piece, number in pieces}
            numbers = np.fromiter(words.values(), np.int32, len(words))
            self._known = word_table(list(words), numbers)
        self._merges = _merge_table(vocabulary, model["merges"])

    def encode(self, part: str) -> bytes:
        """The bytes of a part of a text that is normalized already."""
        if self._is_byte_level:
            return part.translate(self._byte_of).encode("latin-1")
        return part.encode()

    def segment(self, words: WordSpans) -> RaggedRows:
        """Tokenize words that are normalized already."""
        return self._merge(words, self._symbols, adds_space=False)

    def __call__(self, words: WordSpans) -> RaggedRows:
        """Tokenize words of a text, with the space that begins them."""
        return self._merge(words, self._spaced, adds_space=self._adds_space)

    def _merge(
        self, words: WordSpans, symbols: Int32, *, adds_space: bool
    ) -> RaggedRows:
        rows = np.empty(words.n_bytes + len(words.spans), np.int32)
        offsets = np.empty(len(words.spans) + 1, np.int64)
        known = self._known
        n_rows: int = merge_words(
            *words,
            *(adds_space, self._is_byte_level, symbols, self._bytes),
            *(self._unknown, self._fuses, known.slots, known.words, known.text),
            *(known.n_words, *self._merges, rows, offsets),
        )
        return RaggedRows(self._row_of[rows[:n_rows]], offsets)


def can_merge(model: Mapping[str, Any], is_byte_level: bool) -> bool:
    """Whether `FastBytePairs` tokenizes exactly as the package tokenizers.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json``.
    is_byte_level : bool
        Whether the vocabulary is written in `byte_alphabet`.

    Returns
    -------
    bool
    """
    if model["type"] != "BPE" or any(model[name] for name in SETTINGS):
        return False
    vocabulary = model["vocab"]
    if is_byte_level and model["byte_fallback"]:
        return False
    if model["ignore_merges"] and any(
        len(piece) > LONGEST_KNOWN for piece in vocabulary
    ):
        return False
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if model["byte_fallback"] and not all(name in vocabulary for name in names):
        return False
    unknown = model["unk_token"]
    # A merge with the unknown token would depend on the text that it stands for.
    return not unknown or (
        unknown in vocabulary
        and not any(unknown in _pair(merge) for merge in model["merges"])
    )


def _pair(merge: Any) -> Any:
    """The two tokens of a merge, which older files write as one string."""
    return merge.split(" ") if isinstance(merge, str) else merge


def splits_at_spaces(model: Mapping[str, Any]) -> bool:
    """Whether a BPE model never merges a space with the character before it.

    No token continues with a space after another character, and there is a token for
    unknown characters: between two spaces they would vanish otherwise.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json``.

    Returns
    -------
    bool
    """
    vocabulary = model["vocab"]
    is_complete = bool(model["byte_fallback"] or model["unk_token"])
    return (
        is_complete
        and META in vocabulary
        and not any(META in piece.lstrip(META) for piece in vocabulary)
    )


def _ids(vocabulary: Mapping[str, int], pieces: list[str]) -> Int32:
    """Ids of pieces; -1 for others than those of the vocabulary."""
    return np.array([vocabulary.get(piece, -1) for piece in pieces], np.int32)


def _merge_table(
    vocabulary: Mapping[str, int], merges: list[Any]
) -> tuple[Any, Int32, Int32]:
    """Hash table of pairs of ids: keys, ranks and the ids that result."""
    parts = [_pair(merge) for merge in merges]
    rank_of = {(vocabulary[a], vocabulary[b]): n for n, (a, b) in enumerate(parts)}
    ranks = np.fromiter(rank_of.values(), np.int32, len(rank_of))
    pairs = np.array(list(rank_of), np.int64).reshape(-1, 2)
    results = [vocabulary[parts[rank][0] + parts[rank][1]] for rank in ranks.tolist()]
    size = 1 << (2 * len(rank_of)).bit_length()
    keys = np.zeros(size, np.uint64)
    table_ranks, table_ids = np.empty(size, np.int32), np.empty(size, np.int32)
    insert_pairs(
        *(pairs, ranks, np.array(results, np.int32), keys, table_ranks, table_ids)
    )
    return keys, table_ranks, table_ids


@compiled
def insert_pairs(pairs, ranks, results, keys, table_ranks, table_ids):
    """Fill a hash table of pairs; a key is the two ids plus one, 0 is a free slot."""
    mask = np.uint64(keys.size - 1)
    for i in range(len(pairs)):
        key = (np.uint64(pairs[i, 0]) << np.uint64(32) | np.uint64(pairs[i, 1])) + ONE
        at = mix(key, np.uint64(0)) & mask
        while keys[at] != 0:
            at = (at + ONE) & mask
        keys[at], table_ranks[at], table_ids[at] = key, ranks[i], results[i]


@compiled
def _slot(left, right, keys):
    """Slot of a pair of ids, or -1."""
    key = (np.uint64(left) << np.uint64(32) | np.uint64(right)) + ONE
    mask = np.uint64(keys.size - 1)
    at = mix(key, np.uint64(0)) & mask
    while keys[at] != key:
        if keys[at] == 0:
            return np.int64(-1)
        at = (at + ONE) & mask
    return np.int64(at)


@compiled
def _split(sentence, n, is_byte_level, symbols, byte_ids, unknown, fuses, ids):
    """Ids of the characters or bytes of a word; returns their number."""
    count, j = 0, 0
    is_unknown: Any = False
    while j < n:
        code, length = np.int64(sentence[j]), 1
        if not is_byte_level:
            code, length = code_point(sentence, j, n)
        number = np.int64(-1)
        if 0 <= code < symbols.size:
            number = np.int64(symbols[code])
        if number >= 0:
            ids[count] = number
            count += 1
        elif byte_ids.size:
            for k in range(j, j + length):
                ids[count] = byte_ids[sentence[k]]
                count += 1
        elif unknown >= 0 and not (is_unknown and fuses):
            ids[count] = unknown
            count += 1
        is_unknown = number < 0
        j += length
    return count


@compiled
def _merge(ids, n, slots, keys, ranks, results):
    """Merge pairs in the order of their ranks, in place; returns the number of ids."""
    for k in range(n - 1):
        slots[k] = _slot(ids[k], ids[k + 1], keys)
    while n > 1:
        best, lowest = -1, MOST_RANK
        for k in range(n - 1):
            if slots[k] >= 0 and ranks[slots[k]] < lowest:
                best, lowest = k, ranks[slots[k]]
        if best < 0:
            break
        ids[best] = results[slots[best]]
        n -= 1
        for k in range(best + 1, n):
            ids[k] = ids[k + 1]
            slots[k - 1] = slots[k]
        if best > 0:
            slots[best - 1] = _slot(ids[best - 1], ids[best], keys)
        if best < n - 1:
            slots[best] = _slot(ids[best], ids[best + 1], keys)
    return n


@compiled
def _push(queue, n, ids, left, right, keys, ranks):
    """Add a pair to a priority queue of (rank, position); returns its length."""
    slot = _slot(ids[left], ids[right], keys)
    if slot < 0:
        return n
    entry = np.int64(ranks[slot]) << 32 | left
    at = n
    while at > 0 and queue[(at - 1) >> 1] > entry:
        queue[at] = queue[(at - 1) >> 1]
        at = (at - 1) >> 1
    queue[at] = entry
    return n + 1


@compiled
def _pop(queue, n):
    """Move the lowest of ``n`` entries of a priority queue behind the others."""
    lowest, last = queue[0], queue[n - 1]
    at = 0
    while 2 * at + 1 < n - 1:
        child = 2 * at + 1
        if child + 1 < n - 1 and queue[child + 1] < queue[child]:
            child += 1
        if queue[child] >= last:
            break
        queue[at] = queue[child]
        at = child
    queue[at] = last
    queue[n - 1] = lowest


@compiled
def _merge_long(ids, n, keys, ranks, results):
    """The same as `_merge` for many ids: takes time in proportion to n log n."""
    before, after = np.arange(-1, n - 1), np.arange(1, n + 1)
    queue = np.empty(3 * n, np.int64)  # each merge adds two pairs at most
    size = 0
    for k in range(n - 1):
        size = _push(queue, size, ids, k, k + 1, keys, ranks)
    while size > 0:
        _pop(queue, size)
        size -= 1
        rank, left = queue[size] >> 32, queue[size] & 0xFFFFFFFF
        right = after[left]
        if ids[left] < 0 or right >= n:
            continue
        slot = _slot(ids[left], ids[right], keys)
        if slot < 0 or ranks[slot] != rank:  # one of them was merged meanwhile
            continue
        ids[left], ids[right] = results[slot], -1
        after[left] = after[right]
        if after[left] < n:
            before[after[left]] = left
            size = _push(queue, size, ids, left, after[left], keys, ranks)
        if before[left] >= 0:
            size = _push(queue, size, ids, before[left], left, keys, ranks)
    count = 0
    for k in range(n):
        if ids[k] >= 0:
            ids[count] = ids[k]
            count += 1
    return count


@compiled
def merge_words(
    buffer,
    spans,
    folded,
    adds_space,
    is_byte_level,
    symbols,
    byte_ids,
    unknown,
    fuses,
    slots,
    words,
    text,
    n_words,
    keys,
    ranks,
    results,
    rows,
    row_ends,
):
    """Encode words by merges; writes token ids, and returns their number.

    A word in the hash table of ``n_words`` words is one token.
    """
    longest = 0
    for i in range(len(spans)):
        longest = max(longest, spans[i, 1] - spans[i, 0])
    sentence = np.empty(longest + 1, np.uint8)
    ids = np.empty(longest + 1, np.int64)
    pair_slots = np.empty(longest + 1, np.int64)
    unfolded = np.arange(256).astype(np.uint8)
    n = 0
    row_ends[0] = 0
    for i in range(len(spans)):
        length = 0
        if adds_space and buffer[spans[i, 0]] != 32:
            sentence[0], length = 32, 1
        for j in range(spans[i, 0], spans[i, 1]):
            sentence[length] = folded[buffer[j]]
            length += 1
        number = np.int64(-1)
        if n_words > 0 and length < 256:
            hashed, tail = hash_word(sentence, 0, length, unfolded)
            number = find(hashed, tail, length, slots, words, n_words)
            if number >= 0 and length > 8:
                is_same = equals(number, words, text, sentence, 0, length, unfolded)
                number = number if is_same else np.int64(-1)
        if number >= 0:
            rows[n] = words[number, FIRST]
            n += 1
        else:
            count = _split(
                sentence, length, is_byte_level, symbols, byte_ids, unknown, fuses, ids
            )
            if count > LONG:
                count = _merge_long(ids, count, keys, ranks, results)
            else:
                count = _merge(ids, count, pair_slots, keys, ranks, results)
            rows[n : n + count] = ids[:count]
            n += count
        row_ends[i + 1] = n
    return n
