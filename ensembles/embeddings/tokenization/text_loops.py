# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled loops over the bytes of texts: word lookup and expansion into rows."""

from __future__ import annotations

import numpy as np

from ensembles.embeddings.tokenization.hash_table_loops import (
    BYTE,
    COUNT,
    FACTOR,
    FIRST,
    find,
    mix,
    same,
)
from ensembles.kernels.jit import compiled

# Kinds of bytes: part of a word, separator, word by itself.
WORD, SPACE, SINGLE = 0, 1, 2
# Kinds of misses: a whole text or a word too long to cache; any other word; a word of
# ASCII letters and digits only.
WHOLE, OTHER, PLAIN = 0, 1, 2
LONGEST = 128  # bytes of the longest word that is cached


@compiled
def _kind_of(buffer, start, stop):
    plain = True
    for j in range(start, stop):
        byte = buffer[j]
        letter = np.uint8(byte | 32)
        if not (48 <= byte <= 57 or 97 <= letter <= 122):
            plain = False
    return WHOLE if stop - start > LONGEST else PLAIN if plain else OTHER


@compiled
def _holds_aside(buffer, start, stop, begins, asides, aside_ends):
    """Whether a text contains one of ``asides``, such as an added special token."""
    for j in range(start, stop):
        if begins[buffer[j]]:
            for k in range(aside_ends.size - 1):
                first, length = aside_ends[k], aside_ends[k + 1] - aside_ends[k]
                at = 0
                while at < length and j + at < stop:
                    if buffer[j + at] != asides[first + at]:
                        break
                    at += 1
                if at == length:
                    return True
    return False


@compiled
def spell_out(numbers, ends, words, pieces, order, own, own_ends, rows, offsets):
    """Expand word numbers into the rows of their subword tokens, text by text.

    The rows of the k-th miss are those of word ``order[k]`` in ``own``.
    """
    n, k = 0, 0
    offsets[0] = 0
    for i in range(ends.size):
        while k < ends[i]:
            number = numbers[k]
            if number >= 0:
                first, count = words[number, FIRST], words[number, COUNT]
                if count == 1:
                    rows[n] = first
                else:
                    for j in range(count):
                        rows[n + j] = pieces[first + j]
                n += count
            else:
                which = order[-1 - number]
                first, count = own_ends[which], own_ends[which + 1] - own_ends[which]
                for j in range(count):
                    rows[n + j] = own[first + j]
                n += count
            k += 1
        offsets[i + 1] = n


@compiled
def parted(notes, n_texts):
    """Views of the parts of the ``notes`` array of `find_words`.

    The parts are the offset of each text's rows; the end of each text's words; the
    numbers of the words, -1 - k for the k-th miss; start, end and kind of each miss.
    """
    first, second = n_texts + 1, 2 * n_texts + 1
    n_words = (notes.size - second) // 4
    misses = notes[second + n_words :].reshape(n_words, 3)
    return notes[:first], notes[first:second], notes[second : second + n_words], misses


@compiled
def find_words(
    buffer,
    offsets,
    kinds,
    folded,
    begins,
    asides,
    aside_ends,
    slots,
    words,
    known,
    pieces,
    n_words,
):
    """Split texts into words and look them up; expand them if no word is missing.

    Returns the number of misses, the number of rows of the known words, the rows (empty
    after a miss), and the notes, which `parted` splits. Without a miss the notes are
    only the offsets, the first of these parts. A text that contains one of ``asides``
    counts as a single miss.
    """
    n_bytes, n_texts = offsets[-1] - offsets[0], offsets.size - 1
    # One array, because each returned array takes most of a microsecond. Pages that are
    # never written are never allocated.
    notes = np.empty(2 * n_texts + 1 + 4 * (n_bytes + 1), np.int64)
    starts, ends, numbers, misses = parted(notes, n_texts)
    n, n_missed, n_rows = 0, 0, 0
    for i in range(offsets.size - 1):
        j, stop = offsets[i], offsets[i + 1]
        if asides.size and _holds_aside(buffer, j, stop, begins, asides, aside_ends):
            misses[n_missed, 0], misses[n_missed, 1] = j, stop
            misses[n_missed, 2] = WHOLE
            n_missed += 1
            numbers[n] = -n_missed
            n, j = n + 1, stop
        while j < stop:
            start, kind = j, WORD
            hashed, tail = FACTOR, np.uint64(0)
            while j < stop:
                byte = buffer[j]
                kind = kinds[byte]
                if kind != WORD:
                    break
                if (j - start) & 7 == 0 and j > start:
                    hashed, tail = mix(hashed, tail), np.uint64(0)
                tail = (tail << BYTE) | np.uint64(folded[byte])
                j += 1
            if j == start:
                j += 1
                if kind == SPACE:
                    continue
                tail = np.uint64(folded[buffer[start]])
            hashed = mix(mix(hashed, tail), np.uint64(0))
            number = find(hashed, tail, j - start, slots, words, n_words)
            if number >= 0 and j - start > 8:
                is_same = same(number, words, known, buffer, start, j - start, folded)
                number = number if is_same else -1
            if number >= 0:
                n_rows += words[number, COUNT]
            else:
                misses[n_missed, 0], misses[n_missed, 1] = start, j
                misses[n_missed, 2] = _kind_of(buffer, start, j)
                n_missed += 1
                number = -n_missed
            numbers[n] = number
            n += 1
        ends[i] = n
    rows = np.empty(0 if n_missed else n_rows, np.int32)
    if not n_missed:
        spell_out(numbers, ends, words, pieces, ends, rows, ends, rows, starts)
        notes = starts.copy()  # frees the larger array
    return n_missed, n_rows, rows, notes


@compiled
def to_bytes(buffer, offsets):
    """Convert character offsets to UTF-8 byte offsets, in place."""
    j, before = 0, 0
    for i in range(1, offsets.size):
        length = offsets[i] - before
        before = offsets[i]
        for _ in range(length):
            byte = buffer[j]
            j += 1
            if byte >= 0xC0:
                j += 1 + (byte >= 0xE0) + (byte >= 0xF0)
        offsets[i] = j
