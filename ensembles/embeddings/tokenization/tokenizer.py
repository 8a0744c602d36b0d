"""Tokenizers of words: create one that maps texts to rows of a vector table."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain, groupby
from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.cached_tokenizer import (
    CachedTokenizer,
    RaggedRows,
    Tokenizer,
    boundary_table,
)
from ensembles.embeddings.tokenization.huggingface import HuggingFaceTokenizer

JOINERS = "\u200c\u200d"
# Ranges that contain marks; the rest of Unicode is Han, private or unassigned.
PLANES_OF_MARKS = (range(0x20000), range(0xE0000, 0xE1000))
PATTERN = (
    "{start}{inside}*"
    "(?:(?:[{joiners}]+(?={inside})|(?<={marks})[{joiners}]+){inside}*)*"
)
# The same pattern for tokenizers (Oniguruma), whose \w differs from Python's.
PORTABLE = PATTERN.format(
    start=r"[\p{L}\p{N}_]",
    inside=r"[\p{L}\p{N}_\p{M}]",
    marks=r"\p{M}",
    joiners=JOINERS,
)
# Patterns whose matches contain no ASCII character but letters, digits and "_", so text
# may be split at all other ASCII characters first. None is `word_pattern`.
ASCII_WORD_PATTERNS = {
    *(None, r"\w+", r"(?u)\w+", r"\b\w+\b", r"(?u)\b\w\w+\b", r"\b\w\w+\b")
}
# ASCII whitespace of str.split.
SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
ASCII_NON_WORD = "".join(
    chr(code) for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")
)


class WordTokenizer:
    """Word tokenizer by a regular expression, a callable or whitespace.

    Parameters
    ----------
    find : callable, pattern, or None
        Function from a text to its words, or pattern whose matches are the words. None
        splits at whitespace.
    vocabulary : mapping from word to row
        Rows of the words in the vector table; other words get -1.
    lowercase : bool
        Whether to lowercase words before the lookup.
    nfc : bool
        Whether to normalize texts to Unicode NFC before the search.
    """

    def __init__(
        self,
        find: Callable[[str], list[str]] | re.Pattern[str] | None,
        vocabulary: Mapping[str, int],
        *,
        lowercase: bool,
        nfc: bool,
    ) -> None:
        self._find = find
        self._vocabulary = vocabulary
        self._lowercase = lowercase
        self._nfc = nfc

    def __call__(self, texts: list[str]) -> RaggedRows:
        row_of = self._vocabulary.get
        rows: list[int] = []
        offsets = np.zeros(len(texts) + 1, np.int64)
        for index, text in enumerate(texts):
            rows.extend([row_of(word, -1) for word in self.words(text)])
            offsets[index + 1] = len(rows)
        return RaggedRows(np.array(rows, np.int32), offsets)

    def words(self, text: str) -> Iterator[str]:
        """The words of a text, normalized as for the lookup."""
        if self._nfc:
            text = unicodedata.normalize("NFC", text)
        words: Any
        if self._find is None:
            words = text.split()
        elif isinstance(self._find, re.Pattern):
            words = (match.group() for match in self._find.finditer(text))
        else:
            words = _check_words(self._find(text))
        # Words, not the text: the lowercase of sigma differs at the end of a word.
        return (word.lower() for word in words) if self._lowercase else iter(words)


def _check_words(result: Any) -> list[str]:
    """Check that a callable returned a list of str."""
    is_list = hasattr(result, "__iter__") and not isinstance(result, str)
    words: list[Any] = list(result) if is_list else [None]
    if not all(isinstance(word, str) for word in words):
        raise TypeError(
            "tokenizer must return a list of str for a text, found "
            f"{result!r:.60} of type {type(result).__name__}"
        )
    return words


def make_tokenizer(
    tokenizer: Any,
    vocabulary: Mapping[str, int] | None,
    *,
    lowercase: bool = False,
    unknown: int | None = None,
) -> Tokenizer:
    r"""Create a tokenizer that maps texts to rows of a vector table.

    Parameters
    ----------
    tokenizer : None, str, tokenizers.Tokenizer, or callable
        None finds words of letters of any language with their combining marks and
        joiners, digits and ``_``; in ASCII this equals ``\w+``. It suits Spanish,
        Russian, Hindi or Arabic. Chinese, Japanese and Thai are written without spaces,
        so a run of their characters is one word: pass a callable that segments them, or
        a Hugging Face tokenizer. "whitespace" splits like ``str.split``; any other str
        is a regular expression whose matches are the words (Python's ``\w`` excludes
        combining marks). Texts are first normalized to Unicode NFC, which keeps
        accents.

        A `tokenizers.Tokenizer`, or a fast tokenizer of transformers, yields its exact
        ids without special tokens, truncation and padding; it handles accents and case
        itself. A callable returns a list of str for each text, which it receives
        without normalization.
    vocabulary : mapping from token to row, or None
        Rows of the tokens; others get -1. None, for Hugging Face tokenizers only, uses
        the token ids as rows.
    lowercase : bool, default=False
        Whether to lowercase words before the lookup.
    unknown : int or None, default=None
        Token id that gets -1 all the same if ``vocabulary`` is None.

    Returns
    -------
    Tokenizer
        The tokenizer.

    Raises
    ------
    ValueError
        If ``lowercase`` is set for a Hugging Face tokenizer, another tokenizer has no
        vocabulary, or the pattern is not a valid regular expression.
    TypeError
        If ``tokenizer`` is none of these.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "encode_batch_fast"):
        if lowercase:
            raise ValueError(
                "lowercase must be False with a Hugging Face tokenizer; its own "
                "normalizer decides whether it lowercases"
            )
        subwords = HuggingFaceTokenizer(backend, vocabulary, unknown)
        if subwords.boundaries is None:
            return Tokenizer(subwords)
        return CachedTokenizer(subwords, subwords.boundaries, subwords.fast)
    if vocabulary is None:
        raise ValueError(
            "vocabulary must not be None: only a Hugging Face tokenizer has its own, "
            f"found tokenizer {tokenizer!r}"
        )
    if tokenizer is None or isinstance(tokenizer, str):
        return _word_tokenizer(tokenizer, vocabulary, lowercase)
    if not callable(tokenizer):
        raise TypeError(
            "tokenizer must be None, 'whitespace', a pattern, a tokenizers.Tokenizer "
            f"or a callable, found {type(tokenizer).__name__}"
        )
    words = WordTokenizer(tokenizer, vocabulary, lowercase=lowercase, nfc=False)
    return Tokenizer(words)


def _word_tokenizer(
    pattern: str | None, vocabulary: Mapping[str, int], lowercase: bool
) -> Tokenizer:
    words = WordTokenizer(
        word_finder(pattern), vocabulary, lowercase=lowercase, nfc=True
    )
    # No case folding: NFC composes h and U+0331 to one character, but not H and U+0331.
    if pattern == "whitespace":
        return CachedTokenizer(words, boundary_table(SPACES))
    if pattern in ASCII_WORD_PATTERNS:
        return CachedTokenizer(words, boundary_table(ASCII_NON_WORD))
    return Tokenizer(words)


def word_finder(tokenizer: Any) -> Any:
    """Convert a tokenizer to the ``find`` argument of `WordTokenizer`.

    Parameters
    ----------
    tokenizer : None, str or callable
        Tokenizer as in `make_tokenizer`, but not a Hugging Face tokenizer.

    Returns
    -------
    re.Pattern, callable or None
        None splits at whitespace.

    Raises
    ------
    ValueError
        If a str is not a valid regular expression.
    """
    if tokenizer is None:
        return word_pattern()
    if tokenizer == "whitespace":
        return None
    if not isinstance(tokenizer, str):
        return tokenizer
    try:
        return re.compile(tokenizer)
    except re.error as error:
        raise ValueError(
            "tokenizer must be None, 'whitespace' or a regular expression: "
            f"{tokenizer!r} is not valid, {error}"
        ) from error


@cache
def word_pattern() -> re.Pattern[str]:
    r"""Default word pattern: letters, digits and ``_``, with combining marks.

    Python's ``\w`` excludes combining marks, so it would split Hindi, Thai or Hebrew
    words at each of them. Zero-width joiners belong to a word before a letter or a
    mark, as in Persian, and after a mark, where they select its form, as in Malayalam.

    References
    ----------
    Unicode Standard Annex #29, "Unicode text segmentation", rules WB4 and WB5.
    """
    marks = _class_of_marks()
    pattern = PATTERN.format(
        start=r"\w", inside=rf"[\w{marks}]", marks=f"[{marks}]", joiners=JOINERS
    )
    return re.compile(pattern)


def _class_of_marks() -> str:
    """Character-class ranges of the Unicode categories Mn, Mc and Me."""
    codes = chain.from_iterable(PLANES_OF_MARKS)
    marks = [code for code in codes if unicodedata.category(chr(code))[0] == "M"]
    ranges = []
    for _, run in groupby(enumerate(marks), key=lambda pair: pair[1] - pair[0]):
        together = [code for _, code in run]
        ranges.append(f"{chr(together[0])}-{chr(together[-1])}")
    return "".join(ranges)
