"""From texts to rows of a table of vectors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ensembles.embeddings.tokenization.hash_table import Int32, Rows
from ensembles.embeddings.tokenization.huggingface import Pieces
from ensembles.embeddings.tokenization.texts import (
    Int64,
    Part,
    decoded,
    encoded,
    n_texts,
    parts_of,
    pieces,
)
from ensembles.embeddings.tokenization.word_cache import Cuts, Resolve, WordCache, cuts
from ensembles.embeddings.tokenization.word_pattern import word_pattern
from ensembles.embeddings.tokenization.wordpiece import WordPieces

# Patterns whose matches hold no sign of ASCII but letters, digits and "_": text may be
# cut at every other sign of ASCII before it is searched. None is `word_pattern`.
WITHIN_WORDS = {*(None, r"\w+", r"(?u)\w+", r"\b\w+\b", r"(?u)\b\w\w+\b", r"\b\w\w+\b")}
# What str.split takes for white space, as far as it is ASCII.
SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
OUTSIDE_WORDS = "".join(
    chr(code) for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")
)


class Ragged(NamedTuple):
    """Rows of all texts, one text after the other.

    Attributes
    ----------
    rows : ndarray, int32
        Rows of a table of vectors; -1 is a token that the table does not have.
    offsets : ndarray of shape (n_texts + 1,), int64
        Where each text's rows begin and the last one's end.
    """

    rows: Int32
    offsets: Int64


class Tokens:
    """Rows of the tokens of texts; made by `tokens_of`.

    Threads may use one together. A pickle holds no remembered words; a copy learns
    them anew.

    Parameters
    ----------
    resolve : callable
        From a list of str to rows and offsets: what the answer is.
    cuts : Cuts or None, default=None
        Where any text may be cut before it is resolved. None resolves texts whole.
    plain : WordPieces or None, default=None
        A faster way to the same rows, for words of ASCII letters and digits.
    """

    def __init__(
        self,
        resolve: Resolve,
        cuts: Cuts | None = None,
        plain: WordPieces | None = None,
    ) -> None:
        self._made_of = (resolve, cuts, plain)
        self._resolve = resolve
        self._cache = None
        if cuts is not None:
            self._cache = WordCache(cuts, resolve, plain=plain)

    def __reduce__(self) -> tuple[type[Tokens], tuple[Any, ...]]:
        return type(self), self._made_of

    @property
    def by_word(self) -> bool:
        """Whether words are remembered, rather than texts resolved whole."""
        return self._cache is not None

    def __call__(self, texts: Any) -> Ragged:
        """Rows of texts.

        Parameters
        ----------
        texts : sequence, array or column of str, or an iterable
            Columns of pyarrow, pandas and polars are read as they lie in memory where
            pyarrow is installed. None, NaN and a missing value are texts without
            tokens. A lone surrogate counts as U+FFFD.

        Returns
        -------
        Ragged

        Raises
        ------
        TypeError
            If it is one text, or holds something that is none.
        """
        found, first = [], 0
        for part in parts_of(texts):
            found += [self.of_part(some, at) for at, some in pieces(part, first)]
            first += n_texts(part)
        if len(found) == 1:
            return found[0]
        rows = [ragged.rows for ragged in found]
        lengths = [np.diff(ragged.offsets) for ragged in found]
        offsets = np.zeros(sum(map(len, lengths)) + 1, np.int64)
        if found:
            np.cumsum(np.concatenate(lengths), out=offsets[1:])
        return Ragged(np.concatenate([np.empty(0, np.int32), *rows]), offsets)

    def of_part(self, part: Part, first: int = 0) -> Ragged:
        """Rows of some hundred texts, of which ``first`` is the number of the first."""
        if self._cache is not None and n_texts(part):
            return Ragged(*self._cache.rows(encoded(part, first)))
        if not n_texts(part):
            return Ragged(np.empty(0, np.int32), np.zeros(1, np.int64))
        return Ragged(*self._resolve(decoded(part, first)))


class Words:
    """Rows of the words that a function or a pattern finds in texts.

    Parameters
    ----------
    find : callable, pattern, or None
        From a text to its words; None splits at white space.
    vocabulary : mapping from word to row
    lowercase : bool
        Whether words are put in small letters before they are looked up.
    composed : bool
        Whether texts are put in Unicode's form C before they are searched.
    """

    def __init__(
        self,
        find: Callable[[str], list[str]] | re.Pattern[str] | None,
        vocabulary: Mapping[str, int],
        *,
        lowercase: bool,
        composed: bool,
    ) -> None:
        self._find = find
        self._vocabulary = vocabulary
        self._lowercase = lowercase
        self._composed = composed

    def __call__(self, texts: list[str]) -> Rows:
        row_of = self._vocabulary.get
        rows: list[int] = []
        offsets = np.zeros(len(texts) + 1, np.int64)
        for index, text in enumerate(texts):
            rows.extend([row_of(word, -1) for word in self.words(text)])
            offsets[index + 1] = len(rows)
        return np.array(rows, np.int32), offsets

    def words(self, text: str) -> Iterator[str]:
        """The words of a text, as they are looked up."""
        if self._composed:
            text = unicodedata.normalize("NFC", text)
        if self._find is None:
            found: Any = text.split()
        elif isinstance(self._find, re.Pattern):
            found = (match.group() for match in self._find.finditer(text))
        else:
            found = _strings(self._find(text))
        # Of the word, not the text: a sigma at its end is another letter.
        return (word.lower() for word in found) if self._lowercase else iter(found)


def _strings(found: Any) -> list[str]:
    """What a callable gave for a text, known to be words."""
    is_list = hasattr(found, "__iter__") and not isinstance(found, str)
    words: list[Any] = list(found) if is_list else [None]
    if not all(isinstance(word, str) for word in words):
        raise TypeError(
            "tokenizer must give a list of str for a text, found "
            f"{found!r:.60} of type {type(found).__name__}"
        )
    return words


def tokens_of(
    tokenizer: Any,
    vocabulary: Mapping[str, int] | None,
    *,
    lowercase: bool = False,
) -> Tokens:
    r"""Tokens of texts as rows of a table of vectors.

    Parameters
    ----------
    tokenizer : None, str, tokenizers.Tokenizer, or callable
        None finds words of letters of any language with their combining marks and
        joiners, digits and ``_``; in ASCII that is ``\w+``. It is right for Spanish,
        Russian, Hindi or Arabic; Chinese, Japanese and Thai have no spaces between
        words, and a run of their characters is one word: give a callable that splits
        them, or a Hugging Face tokenizer. "whitespace" splits where ``str.split`` does;
        another str is a regular expression whose matches are the words (Python's
        ``\w`` has no combining marks). Texts are put in Unicode's form C before: an
        accent is part of its letter, and stays.

        A `tokenizers.Tokenizer`, or a tokenizer of transformers that stands on one,
        gives its exact ids, without what it adds around, cuts off or fills up; accents
        and capitals are its own business. A callable gives a list of str for a text,
        which it gets as it is.
    vocabulary : mapping from token to row, or None
        What is not in it is -1. None is for Hugging Face tokenizers alone: ids are
        rows.
    lowercase : bool, default=False
        Whether words are put in small letters before they are looked up.

    Returns
    -------
    Tokens

    Raises
    ------
    ValueError
        If a Hugging Face tokenizer is to have ``lowercase``, or another one lacks a
        vocabulary, or the pattern is not a regular expression.
    TypeError
        If ``tokenizer`` is none of these.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "encode_batch_fast"):
        if lowercase:
            raise ValueError(
                "lowercase must be False with a Hugging Face tokenizer, which has its "
                "own normalizer: set that, or take a tokenizer that ignores case"
            )
        pieces = Pieces(backend, vocabulary)
        return Tokens(pieces, pieces.cuts, pieces.plain)
    if vocabulary is None:
        raise ValueError(
            "vocabulary must be given: only a Hugging Face tokenizer has its own, "
            f"found tokenizer {tokenizer!r}"
        )
    if tokenizer is None or isinstance(tokenizer, str):
        return _words(tokenizer, vocabulary, lowercase)
    if not callable(tokenizer):
        raise TypeError(
            "tokenizer must be None, 'whitespace', a pattern, a tokenizers.Tokenizer "
            f"or a callable, found {type(tokenizer).__name__}"
        )
    words = Words(tokenizer, vocabulary, lowercase=lowercase, composed=False)
    return Tokens(words)


def _words(
    pattern: str | None, vocabulary: Mapping[str, int], lowercase: bool
) -> Tokens:
    # No folding: H and U+0331 stay two where text is composed, h and U+0331 do not.
    where = None
    if pattern == "whitespace":
        where = cuts(SPACES)
    elif pattern in WITHIN_WORDS:
        where = cuts(OUTSIDE_WORDS)
    words = Words(finder_of(pattern), vocabulary, lowercase=lowercase, composed=True)
    return Tokens(words, where)


def finder_of(tokenizer: Any) -> Any:
    """What `Words` finds words by: a pattern, a callable, or None for white space.

    Parameters
    ----------
    tokenizer : None, str or callable
        As `tokens_of` takes it.

    Returns
    -------
    re.Pattern, callable or None

    Raises
    ------
    ValueError
        If a str is not a regular expression.
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
            f"{tokenizer!r} is none, {error}"
        ) from error
