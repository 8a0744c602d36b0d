# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled loops of the word cache for texts split by the patterns of a tokenizer.

Each character has a class: its kind (`SYMBOL` to `GAP`) in the lower bits, and flags
for characters that the tokenizer normalizes. Words are looked up as in `word_loops`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.word_loops import (
    ALPHANUMERIC,
    COUNT,
    FACTOR,
    OTHER,
    SPAN,
    UNSPLIT,
    add_byte,
    find,
    gather_rows,
    has_special_token,
    mix,
    split_notes,
)
from ensembles.kernels.jit import compiled

# Kinds of characters: neither of the others; letter; number; whitespace that is neither
# line end nor space; line end; space.
SYMBOL, LETTER, NUMBER, BLANK, NEWLINE, GAP = 0, 1, 2, 3, 4, 5
KIND = 7  # mask of the kind in a class
# Flags of characters: the tokenizer normalizes the word; the text must not be split; a
# special token begins with it.
NORMALIZED, UNSAFE, BEGINS = 16, 32, 64
SPACE_KINDS = 1 << BLANK | 1 << NEWLINE | 1 << GAP
# Patterns. Words between whitespace; words that begin at each space; words that begin
# at each run of spaces; matches of the regular expression of GPT-2, or of its
# successors with at most three, or one, digits.
WHITESPACE, AT_SPACE, AT_SPACES, GPT_2, TRIPLE_DIGITS, SINGLE_DIGITS = 0, 1, 2, 3, 4, 5
# Options: a run of spaces counts as one; whitespace around a text is ignored; special
# tokens are searched first, because some begin with a character without `BEGINS`.
COLLAPSE, STRIP_LEFT, STRIP_RIGHT, SCAN = 1, 2, 4, 8
LONGEST_TOKENIZED = 1024  # bytes of the longest word that is tokenized by a loop
APOSTROPHE = 39


@compiled
def code_point(buffer, j, stop):
    """Character at a position of valid UTF-8, and its length; -1 and 1 if invalid."""
    byte: Any = np.int64(buffer[j])
    code, length = byte, 1
    if byte >= 0x80:
        length = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
        if length == 1 or byte > 0xF4 or j + length > stop:
            code, length = -1, 1
        else:
            code = byte & (0xFF >> (length + 1))
            for k in range(1, length):
                next_byte = np.int64(buffer[j + k])
                if next_byte & 0xC0 != 0x80:
                    code = -1
                    break
                code = code << 6 | (next_byte & 0x3F)
            smallest = 0x80 if length == 2 else 0x800 if length == 3 else 0x10000
            if code < smallest or code > 0x10FFFF or 0xD800 <= code < 0xE000:
                code, length = -1, 1
    return code, length


@compiled
def class_at(buffer, j, stop, classes):
    """Class and length in bytes of the character at a position."""
    byte = buffer[j]
    if byte < 0x80:
        return np.int64(classes[byte]), 1
    code, length = code_point(buffer, j, stop)
    if code < 0 or code >= classes.size:
        return np.int64(SYMBOL | UNSAFE), length
    return np.int64(classes[code]), length


@compiled
def take(buffer, j, stop, classes, kinds):
    """End of a run of characters of some kinds, start of its last, and its flags."""
    last, flags = j, 0
    while j < stop:
        kind, length = class_at(buffer, j, stop, classes)
        if not kinds >> (kind & KIND) & 1:
            break
        flags |= kind
        last = j
        j += length
    return j, last, flags


@compiled
def contraction(buffer, start, stop, ignores_case):
    """Length of an English contraction, such as ``'s`` or ``'re``, or 0."""
    if buffer[start] != APOSTROPHE or start + 1 >= stop:
        return 0
    fold = 32 if ignores_case else 0
    first = buffer[start + 1] | fold
    if first == 115 or first == 116 or first == 109 or first == 100:  # s, t, m, d
        return 2
    if start + 2 >= stop:
        return 0
    second = buffer[start + 2] | fold
    if second == 101 and (first == 114 or first == 118):  # re, ve
        return 3
    return 3 if first == 108 and second == 108 else 0  # ll


@compiled
def _spaces_end(buffer, start, stop, classes):
    r"""End of whitespace by ``\s+(?!\S)|\s+``, and its flags."""
    end, last, flags = take(buffer, start, stop, classes, SPACE_KINDS)
    if end < stop and last > start:
        end = last
    return end, flags


@compiled
def _gpt_2(buffer, start, stop, classes):
    r"""End of a match of the expression of GPT-2, and the flags of its characters.

    The expression is ``'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+``,
    then ``|\s+(?!\S)|\s+``.
    """
    length = contraction(buffer, start, stop, False)
    if length:
        return start + length, 0
    kind, length = class_at(buffer, start, stop, classes)
    j = start
    if kind & KIND == GAP and start + 1 < stop:
        following, _ = class_at(buffer, start + 1, stop, classes)
        if following & KIND <= NUMBER:
            j, kind = start + 1, following
    if kind & KIND <= NUMBER:
        end, _, flags = take(buffer, j, stop, classes, 1 << (kind & KIND))
        return end, flags
    return _spaces_end(buffer, start, stop, classes)


@compiled
def _digits_end(buffer, start, stop, classes, n_digits):
    """End of a run of at most so many numbers, and its flags."""
    j, n, flags = start, 0, 0
    while j < stop and n < n_digits:
        kind, length = class_at(buffer, j, stop, classes)
        if kind & KIND != NUMBER:
            break
        flags |= kind
        j, n = j + length, n + 1
    return j, flags


@compiled
def _gpt_4(buffer, start, stop, classes, n_digits):
    r"""End of a match of the expressions that followed GPT-2's, and its flags.

    The expression is ``(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+``, then
    ``|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+``.
    """
    length = contraction(buffer, start, stop, True)
    if length:
        return start + length, 0
    first, length = class_at(buffer, start, stop, classes)
    kind = first & KIND
    if kind == NUMBER:
        return _digits_end(buffer, start, stop, classes, n_digits)
    j = start if kind == LETTER else start + length
    if kind != NEWLINE:
        end, _, flags = take(buffer, j, stop, classes, 1 << LETTER)
        if end > j:
            return end, flags | first
    j = start + 1 if kind == GAP else start
    end, _, flags = take(buffer, j, stop, classes, 1 << SYMBOL)
    if end > j:
        end, _, _ = take(buffer, end, stop, classes, 1 << NEWLINE)
        return end, flags
    end, last, flags = take(buffer, start, stop, classes, SPACE_KINDS)
    for j in range(end - 1, start - 1, -1):
        if buffer[j] == 10 or buffer[j] == 13:
            return j + 1, flags
    if end < stop and last > start:
        end = last
    return end, flags


@compiled
def match_end(buffer, start, stop, classes, pattern):
    """End of the match of an expression at a position, and its flags."""
    if pattern == GPT_2:
        return _gpt_2(buffer, start, stop, classes)
    n_digits = 3 if pattern == TRIPLE_DIGITS else 1
    return _gpt_4(buffer, start, stop, classes, n_digits)


@compiled
def _is_ascii_space(byte):
    return byte == 32 or 9 <= byte <= 13


@compiled
def _stripped(buffer, start, stop, options):
    """Bounds of a text without the whitespace that its tokenizer ignores."""
    while options & STRIP_LEFT and start < stop and _is_ascii_space(buffer[start]):
        start += 1
    while options & STRIP_RIGHT and start < stop and _is_ascii_space(buffer[stop - 1]):
        stop -= 1
    return start, stop


@compiled
def prepend_spaces(buffer, offsets, always):
    """Copy texts, each with a space before it, unless it begins with one.

    ``always`` also adds one before a space. Empty texts stay empty. Returns the buffer,
    the offsets, and the number of added bytes of each text.
    """
    n_texts = offsets.size - 1
    longer = np.empty(offsets[n_texts] - offsets[0] + n_texts, np.uint8)
    ends = np.empty(n_texts + 1, np.int64)
    n_added = np.zeros(n_texts, np.uint8)
    n = 0
    ends[0] = 0
    for i in range(n_texts):
        start, stop = offsets[i], offsets[i + 1]
        if start < stop and (always or buffer[start] != 32):
            longer[n] = 32
            n += 1
            n_added[i] = 1
        longer[n : n + stop - start] = buffer[start:stop]
        n += stop - start
        ends[i + 1] = n
    return longer[:n], ends, n_added


@compiled
def find_matches(
    buffer,
    offsets,
    n_added,
    classes,
    pattern,
    options,
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
    """Split texts by a pattern and look their words up; see `word_loops.find_words`.

    A text counts as a single miss, without the ``n_added`` bytes before it, if it
    contains one of ``special`` or an unsafe character.
    """
    n_bytes, n_texts = offsets[-1] - offsets[0], offsets.size - 1
    notes = np.empty(2 * n_texts + 1 + 4 * (n_bytes + n_texts + 1), np.int64)
    starts, ends, numbers, misses = split_notes(notes, n_texts)
    n, n_missed, n_rows = 0, 0, 0
    for i in range(n_texts):
        before = n, n_missed, n_rows
        is_safe = not options & SCAN or not has_special_token(
            buffer, offsets[i], offsets[i + 1], begins, special, special_ends
        )
        j, stop = _stripped(buffer, offsets[i], offsets[i + 1], options)
        seen = np.int64(0)  # flags
        while is_safe:
            # Few calls: reference counting of their arrays takes most of the time.
            if pattern == WHITESPACE:
                while j < stop and (
                    buffer[j] == 32 or 9 <= buffer[j] <= 10 or buffer[j] == 13
                ):
                    j += 1
            elif options & COLLAPSE:
                while j + 1 < stop and buffer[j] == 32 and buffer[j + 1] == 32:
                    j += 1
            if j >= stop:
                break
            # The hash is that of the bytes before j while the word is read.
            start, flags = j, np.int64(0)
            hashed, tail = FACTOR, np.uint64(0)
            if pattern <= AT_SPACES:
                while pattern != WHITESPACE and j < stop and buffer[j] == 32:
                    hashed, tail = add_byte(hashed, tail, j - start, folded[32])
                    j += 1
                    if pattern == AT_SPACE:
                        break
                following = j  # the first byte of the next character
                while j < stop:
                    byte = buffer[j]
                    if byte == 32 or (
                        pattern == WHITESPACE and (9 <= byte <= 10 or byte == 13)
                    ):
                        break
                    if byte < 128:
                        flags |= np.int64(classes[byte])
                    elif j >= following:
                        kind, length = class_at(buffer, j, stop, classes)
                        flags |= kind
                        following = j + length
                    hashed, tail = add_byte(hashed, tail, j - start, folded[byte])
                    j += 1
            else:
                if buffer[j] == 32:
                    hashed, tail = add_byte(hashed, tail, 0, folded[32])
                    j += 1
                first = j
                while j < stop and buffer[j] < 128 and classes[buffer[j]] == LETTER:
                    byte = buffer[j]
                    hashed, tail = add_byte(hashed, tail, j - start, folded[byte])
                    j += 1
                n_hashed = j
                if (
                    j == first
                    and j + 1 < stop
                    and buffer[j] < 128
                    and classes[buffer[j]] == SYMBOL
                    and buffer[j + 1] == 32
                ):
                    j += 1
                elif j == first or (j < stop and buffer[j] >= 128):
                    j, flags = match_end(buffer, start, stop, classes, pattern)
                for k in range(n_hashed, j):
                    byte = buffer[k]
                    hashed, tail = add_byte(hashed, tail, k - start, folded[byte])
            hashed, length = mix(mix(hashed, tail), np.uint64(0)), j - start
            seen |= flags
            if flags & UNSAFE or length > LONGEST_TOKENIZED:
                is_safe = False
                break
            number = find(hashed, tail, length, slots, words, n_words)
            if number >= 0 and length > 8:
                first, k = words[number, SPAN] >> 8, 0
                while k < length and text[first + k] == folded[buffer[start + k]]:
                    k += 1
                number = number if k == length else np.int64(-1)
            if number >= 0:
                n_rows += words[number, COUNT]
            else:
                misses[n_missed, 0], misses[n_missed, 1] = start, j
                misses[n_missed, 2] = OTHER if flags & NORMALIZED else ALPHANUMERIC
                n_missed += 1
                number = -n_missed
            numbers[n] = number
            n += 1
        if seen & BEGINS and is_safe:
            is_safe = not has_special_token(
                buffer, offsets[i], offsets[i + 1], begins, special, special_ends
            )
        if not is_safe:
            n, n_missed, n_rows = before
            first = offsets[i] + (n_added[i] if n_added.size else 0)
            misses[n_missed, 0], misses[n_missed, 1] = first, offsets[i + 1]
            misses[n_missed, 2] = UNSPLIT
            n_missed += 1
            numbers[n] = -n_missed
            n += 1
        ends[i] = n
    rows = np.empty(0 if n_missed else n_rows, np.int32)
    if not n_missed:
        gather_rows(numbers, ends, words, pieces, ends, rows, ends, rows, starts)
        notes = starts.copy()  # frees the larger array
    return n_missed, n_rows, rows, notes
