# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled loops over a hash table of words: lookup, insertion, WordPiece.

The table uses open addressing over ``slots``. A slot holds the upper half of a hash
and, in the lower half, the word's number plus one; 0 marks a free slot. A comparison of
bytes decides whether two words are equal. Words are never removed, so a table may be
read while it grows: a reader ignores numbers from its ``n_words`` on, and at worst
misses a word.
"""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled, inlined

# Slots probed per word, which bounds the cost of words chosen to collide.
PROBES = 32
# Columns of the table of words: the last 1 to 8 bytes as a number; the offset of the
# word's bytes, shifted left by 8, plus its length; the offset of the rows of its
# subword tokens, or the row itself if there is only one; the number of rows. One word
# fits in one cache line.
TAIL, PLACE, FIRST, COUNT = 0, 1, 2, 3
N_COLUMNS = 4
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
BYTE, HALF, LOW = np.uint64(8), np.uint64(32), np.uint64(0xFFFFFFFF)
ONE = np.uint64(1)


@inlined
def mix(hashed, tail):
    """Updates a hash with up to 8 more bytes."""
    hashed = (hashed ^ tail) * FACTOR
    return hashed ^ (hashed >> HALF)


@inlined
def find(hashed, tail, length, slots, words, n_words):
    """Number of the word with this hash, tail and length, or -1.

    Words of more than 8 bytes must still be compared with `same`.
    """
    # Few array arguments: reference counting of each takes a third of all time here.
    mask = np.uint64(slots.size - 1)
    at = hashed & mask
    found = np.int64(-1)
    for _ in range(PROBES):
        slot = slots[at]
        if slot == 0:
            break
        if (slot ^ hashed) >> HALF == 0:
            number = np.int64(slot & LOW) - 1
            if (
                number < n_words
                and np.uint64(words[number, TAIL]) == tail
                and words[number, PLACE] & 255 == length
            ):
                found = number
                break
        at = (at + ONE) & mask
    return found


@compiled
def same(number, words, known, buffer, start, length, folded):
    """Whether a word of the table equals the bytes of a buffer, after folding."""
    first, j = words[number, PLACE] >> 8, 0
    while j < length and known[first + j] == folded[buffer[start + j]]:
        j += 1
    return j == length


@inlined
def hash_of(buffer, start, stop, folded):
    """Hash and tail of a word; must agree with the inlined code of ``find_words``."""
    hashed, tail = FACTOR, np.uint64(0)
    for j in range(start, stop):
        if j > start and (j - start) & 7 == 0:
            hashed, tail = mix(hashed, tail), np.uint64(0)
        tail = (tail << BYTE) | np.uint64(folded[buffer[j]])
    return mix(mix(hashed, tail), np.uint64(0)), tail


@compiled
def add_words(
    buffer,
    spans,
    folded,
    rows,
    row_ends,
    slots,
    words,
    known,
    pieces,
    n_words,
    n_known,
    n_pieces,
):
    """Add new words; returns the numbers of words, bytes and rows in the table.

    Bytes and rows are appended to ``known`` and ``pieces``. A word is skipped if it
    needs more than `PROBES` slots, does not fit in the arrays, or matches a word of the
    table in hash, tail and length.
    """
    for i in range(len(spans)):
        start, stop = spans[i, 0], spans[i, 1]
        hashed, tail = hash_of(buffer, start, stop, folded)
        number = find(hashed, tail, stop - start, slots, words, n_words)
        at = -1 if number >= 0 else _free(hashed, slots)
        count = row_ends[i + 1] - row_ends[i]
        fits = n_words < len(words) and n_known + stop - start <= known.size
        if at < 0 or not fits or n_pieces + count > pieces.size:
            continue
        words[n_words, TAIL] = np.int64(tail)
        words[n_words, PLACE] = (n_known << 8) | (stop - start)
        words[n_words, FIRST] = rows[row_ends[i]] if count == 1 else n_pieces
        words[n_words, COUNT] = count
        for j in range(start, stop):
            known[n_known] = folded[buffer[j]]
            n_known += 1
        if count > 1:
            for j in range(row_ends[i], row_ends[i + 1]):
                pieces[n_pieces] = rows[j]
                n_pieces += 1
        n_words += 1
        slots[at] = (hashed >> HALF << HALF) | np.uint64(n_words)
    return n_words, n_known, n_pieces


@inlined
def _free(hashed, slots):
    """First free slot within `PROBES` steps, or -1."""
    found = np.int64(-1)
    for step in range(PROBES):
        at = (hashed + np.uint64(step)) & np.uint64(slots.size - 1)
        if slots[at] == 0:
            found = np.int64(at)
            break
    return found


@compiled
def move_words(words, known, unfolded, n_words, slots):
    """Insert the words of a table into a larger array of slots."""
    for i in range(n_words):
        start = words[i, PLACE] >> 8
        hashed, _ = hash_of(known, start, start + (words[i, PLACE] & 255), unfolded)
        at = _free(hashed, slots)
        if at >= 0:
            slots[at] = (hashed >> HALF << HALF) | np.uint64(i + 1)


@compiled
def cut_words(
    buffer,
    spans,
    folded,
    longest,
    most,
    unknown,
    slots,
    words,
    known,
    n_words,
    slots_2,
    words_2,
    known_2,
    n_words_2,
    rows,
    row_ends,
):
    """Greedy longest-match-first WordPiece tokenization; returns the number of rows.

    The first table holds the pieces that begin a word, the second (``*_2``) the
    continuation pieces. A word without a complete segmentation, or of more than
    ``most`` bytes, becomes the single row ``unknown``.
    """
    n = 0
    row_ends[0] = 0
    for i in range(len(spans)):
        start, stop, before = spans[i, 0], spans[i, 1], n
        if stop - start > most:
            start = stop + 1  # skips the loop, and marks the word as unknown
        while start < stop:
            end, number = min(stop, start + longest), -1
            while end > start:
                length = end - start
                hashed, tail = hash_of(buffer, start, end, folded)
                if n == before:
                    number = find(hashed, tail, length, slots, words, n_words)
                    is_same = length <= 8 or (
                        number >= 0
                        and same(number, words, known, buffer, start, length, folded)
                    )
                else:
                    number = find(hashed, tail, length, slots_2, words_2, n_words_2)
                    is_same = length <= 8 or (
                        number >= 0
                        and same(
                            number, words_2, known_2, buffer, start, length, folded
                        )
                    )
                number = number if is_same else -1
                if number >= 0:
                    break
                end -= 1
            if number < 0:
                break
            rows[n] = words[number, FIRST] if n == before else words_2[number, FIRST]
            n, start = n + 1, end
        if start != stop:
            rows[before] = unknown
            n = before + 1
        row_ends[i + 1] = n
    return n
