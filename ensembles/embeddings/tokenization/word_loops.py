# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled loops of the word cache: splitting texts, hash lookup, WordPiece.

The hash table uses open addressing over ``slots``. A slot holds the upper half of a
hash and, in the lower half, the word's number plus one; 0 marks a free slot. A
comparison of bytes decides whether two words are equal. Words are never removed, so a
table may be read while it grows: a reader ignores numbers from its ``n_words`` on, and
at worst misses a word.
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
TAIL, SPAN, FIRST, COUNT = 0, 1, 2, 3
N_COLUMNS = 4
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
BYTE, HALF, LOW = np.uint64(8), np.uint64(32), np.uint64(0xFFFFFFFF)
ONE = np.uint64(1)


@inlined
def mix(hashed, tail):
    """Update a hash with up to 8 more bytes."""
    hashed = (hashed ^ tail) * FACTOR
    return hashed ^ (hashed >> HALF)


@inlined
def add_byte(hashed, tail, n, byte):
    """Update a hash and its tail with byte ``n`` of a word."""
    if n > 0 and n & 7 == 0:
        hashed, tail = mix(hashed, tail), np.uint64(0)
    return hashed, (tail << BYTE) | np.uint64(byte)


@inlined
def find(hashed, tail, length, slots, words, n_words):
    """Number of the word with this hash, tail and length, or -1.

    Words of more than 8 bytes must still be compared with `equals`.
    """
    # Few array arguments: reference counting of each takes a third of all time here.
    mask = np.uint64(slots.size - 1)
    at = hashed & mask
    match = np.int64(-1)
    for _ in range(PROBES):
        slot = slots[at]
        if slot == 0:
            break
        if (slot ^ hashed) >> HALF == 0:
            number = np.int64(slot & LOW) - 1
            if (
                number < n_words
                and np.uint64(words[number, TAIL]) == tail
                and words[number, SPAN] & 255 == length
            ):
                match = number
                break
        at = (at + ONE) & mask
    return match


@compiled
def equals(number, words, text, buffer, start, length, folded):
    """Whether a word of the table equals the bytes of a buffer, after folding."""
    first, j = words[number, SPAN] >> 8, 0
    while j < length and text[first + j] == folded[buffer[start + j]]:
        j += 1
    return j == length


@inlined
def hash_word(buffer, start, stop, folded):
    """Hash and tail of a word; loops that split texts compute it on the way."""
    hashed, tail = FACTOR, np.uint64(0)
    for j in range(start, stop):
        hashed, tail = add_byte(hashed, tail, j - start, folded[buffer[j]])
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
    text,
    pieces,
    n_words,
    n_bytes,
    n_pieces,
):
    """Add new words; returns the numbers of words, bytes and rows in the table.

    Bytes and rows are appended to ``text`` and ``pieces``. A word is skipped if it is
    longer than 255 bytes, needs more than `PROBES` slots, does not fit in the arrays,
    or matches a word of the table in hash, tail and length.
    """
    for i in range(len(spans)):
        start, stop = spans[i, 0], spans[i, 1]
        hashed, tail = hash_word(buffer, start, stop, folded)
        number = find(hashed, tail, stop - start, slots, words, n_words)
        at = -1 if number >= 0 else _free(hashed, slots)
        count = row_ends[i + 1] - row_ends[i]
        fits = n_words < len(words) and n_bytes + stop - start <= text.size
        fits = fits and stop - start <= 255
        if at < 0 or not fits or n_pieces + count > pieces.size:
            continue
        words[n_words, TAIL] = np.int64(tail)
        words[n_words, SPAN] = (n_bytes << 8) | (stop - start)
        words[n_words, FIRST] = rows[row_ends[i]] if count == 1 else n_pieces
        words[n_words, COUNT] = count
        for j in range(start, stop):
            text[n_bytes] = folded[buffer[j]]
            n_bytes += 1
        if count > 1:
            for j in range(row_ends[i], row_ends[i + 1]):
                pieces[n_pieces] = rows[j]
                n_pieces += 1
        n_words += 1
        slots[at] = (hashed >> HALF << HALF) | np.uint64(n_words)
    return n_words, n_bytes, n_pieces


@inlined
def _free(hashed, slots):
    """First free slot within `PROBES` steps, or -1."""
    free = np.int64(-1)
    for step in range(PROBES):
        at = (hashed + np.uint64(step)) & np.uint64(slots.size - 1)
        if slots[at] == 0:
            free = np.int64(at)
            break
    return free


@compiled
def move_words(words, text, unfolded, n_words, slots):
    """Insert the words of a table into a larger array of slots."""
    for i in range(n_words):
        start = words[i, SPAN] >> 8
        hashed, _ = hash_word(text, start, start + (words[i, SPAN] & 255), unfolded)
        at = _free(hashed, slots)
        if at >= 0:
            slots[at] = (hashed >> HALF << HALF) | np.uint64(i + 1)


@compiled
def split_into_pieces(
    buffer,
    spans,
    folded,
    longest,
    max_bytes,
    unknown,
    slots,
    words,
    text,
    n_words,
    slots_2,
    words_2,
    text_2,
    n_words_2,
    rows,
    row_ends,
):
    """Greedy longest-match-first WordPiece tokenization; returns the number of rows.

    The first table holds the pieces that begin a word, the second (``*_2``) the
    continuation pieces. A word without a complete segmentation, or of more than
    ``max_bytes`` bytes, becomes the single row ``unknown``.
    """
    n = 0
    row_ends[0] = 0
    for i in range(len(spans)):
        start, stop, before = spans[i, 0], spans[i, 1], n
        if stop - start > max_bytes:
            start = stop + 1  # skips the loop, and marks the word as unknown
        while start < stop:
            end, number = min(stop, start + longest), -1
            while end > start:
                length = end - start
                hashed, tail = hash_word(buffer, start, end, folded)
                if n == before:
                    number = find(hashed, tail, length, slots, words, n_words)
                    is_same = length <= 8 or (
                        number >= 0
                        and equals(number, words, text, buffer, start, length, folded)
                    )
                else:
                    number = find(hashed, tail, length, slots_2, words_2, n_words_2)
                    is_same = length <= 8 or (
                        number >= 0
                        and equals(
                            number, words_2, text_2, buffer, start, length, folded
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


# Kinds of bytes: part of a word, separator, word by itself.
WORD, SPACE, SINGLE = 0, 1, 2
# Kinds of misses: a text that must not be split or a word too long to cache; any other
# word; a word of ASCII letters and digits only.
UNSPLIT, OTHER, ALPHANUMERIC = 0, 1, 2
LONGEST = 128  # bytes of the longest word that is cached


@compiled
def _miss_kind(buffer, start, stop):
    is_alphanumeric = True
    for j in range(start, stop):
        byte = buffer[j]
        lowercase_byte = np.uint8(byte | 32)
        if not (48 <= byte <= 57 or 97 <= lowercase_byte <= 122):
            is_alphanumeric = False
    return (
        UNSPLIT
        if stop - start > LONGEST
        else ALPHANUMERIC
        if is_alphanumeric
        else OTHER
    )


@compiled
def has_special_token(buffer, start, stop, begins, special, special_ends):
    """Whether a text contains one of ``special``, which prevent splitting it."""
    for j in range(start, stop):
        if begins[buffer[j]]:
            for k in range(special_ends.size - 1):
                first, length = special_ends[k], special_ends[k + 1] - special_ends[k]
                at = 0
                while at < length and j + at < stop:
                    if buffer[j + at] != special[first + at]:
                        break
                    at += 1
                if at == length:
                    return True
    return False


@compiled
def gather_rows(
    numbers, ends, words, pieces, order, missed, missed_offsets, rows, offsets
):
    """Expand word numbers into the rows of their subword tokens, text by text.

    The rows of the k-th miss are those of word ``order[k]`` in ``missed``.
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
                miss = order[-1 - number]
                first, count = (
                    missed_offsets[miss],
                    missed_offsets[miss + 1] - missed_offsets[miss],
                )
                for j in range(count):
                    rows[n + j] = missed[first + j]
                n += count
            k += 1
        offsets[i + 1] = n


@compiled
def split_notes(notes, n_texts):
    """Views of the parts of the ``notes`` array of `find_words`.

    The parts are the offset of each text's rows; the end of each text's words; the
    numbers of the words, -1 - k for miss k; start, end and kind of each miss.
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
    special,
    special_ends,
    slots,
    words,
    text,
    pieces,
    n_words,
):
    """Split texts into words and look them up; expand them if no word is missing.

    Returns the number of misses, the number of rows of the known words, the rows (empty
    after a miss), and the notes, which `split_notes` splits. Without a miss the notes
    are only the offsets, the first of these parts. A text that contains one of
    ``special`` counts as a single miss.
    """
    n_bytes, n_texts = offsets[-1] - offsets[0], offsets.size - 1
    # One array, because each returned array takes most of a microsecond. Pages that are
    # never written are never allocated.
    notes = np.empty(2 * n_texts + 1 + 4 * (n_bytes + 1), np.int64)
    starts, ends, numbers, misses = split_notes(notes, n_texts)
    n, n_missed, n_rows = 0, 0, 0
    for i in range(offsets.size - 1):
        j, stop = offsets[i], offsets[i + 1]
        if special.size and has_special_token(
            buffer, j, stop, begins, special, special_ends
        ):
            misses[n_missed, 0], misses[n_missed, 1] = j, stop
            misses[n_missed, 2] = UNSPLIT
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
                hashed, tail = add_byte(hashed, tail, j - start, folded[byte])
                j += 1
            if j == start:
                j += 1
                if kind == SPACE:
                    continue
                tail = np.uint64(folded[buffer[start]])
            hashed = mix(mix(hashed, tail), np.uint64(0))
            number = find(hashed, tail, j - start, slots, words, n_words)
            if number >= 0 and j - start > 8:
                is_same = equals(number, words, text, buffer, start, j - start, folded)
                number = number if is_same else -1
            if number >= 0:
                n_rows += words[number, COUNT]
            else:
                misses[n_missed, 0], misses[n_missed, 1] = start, j
                misses[n_missed, 2] = _miss_kind(buffer, start, j)
                n_missed += 1
                number = -n_missed
            numbers[n] = number
            n += 1
        ends[i] = n
    rows = np.empty(0 if n_missed else n_rows, np.int32)
    if not n_missed:
        gather_rows(numbers, ends, words, pieces, ends, rows, ends, rows, starts)
        notes = starts.copy()  # frees the larger array
    return n_missed, n_rows, rows, notes


@compiled
def to_byte_offsets(buffer, offsets):
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
