"""Tokenizers: map texts to the rows of their tokens in a vector table."""

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

# Patterns whose matches contain no ASCII character but letters, digits and "_", so text
# may be split at all other ASCII characters first. None is `word_pattern`.
WITHIN_WORDS = {*(None, r"\w+", r"(?u)\w+", r"\b\w+\b", r"(?u)\b\w\w+\b", r"\b\w\w+\b")}
# ASCII whitespace of str.split.
SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
OUTSIDE_WORDS = "".join(
    chr(code) for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")
)


class Ragged(NamedTuple):
    """Ragged array of the token rows of all texts, stored one text after the other.

    Attributes
    ----------
    rows : ndarray of shape (n_tokens,), int32
        Row of each token in the vector table; -1 for out-of-vocabulary tokens.
    offsets : ndarray of shape (n_texts + 1,), int64
        Text ``i`` has the tokens from ``offsets[i]`` to ``offsets[i + 1] - 1``.
    """

    rows: Int32
    offsets: Int64


class Tokens:
    """Tokenizer from texts to rows, with a cache of words; created by `tokens_of`.

    Instances are thread-safe. The cache is not pickled; a copy starts empty.

    Parameters
    ----------
    resolve : callable
        Tokenizes a list of str; returns rows and offsets as in `Ragged`.
    cuts : Cuts or None, default=None
        Characters at which texts are split into words, which are cached. None passes
        whole texts to ``resolve``, without a cache.
    plain : WordPieces or None, default=None
        Compiled equivalent of ``resolve`` for words of ASCII letters and digits. None
        passes those to ``resolve`` too.
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
        """Whether words are cached, instead of tokenizing whole texts."""
        return self._cache is not None

    def __call__(self, texts: Any) -> Ragged:
        """Tokenize texts.

        Parameters
        ----------
        texts : sequence, array or column of str, or an iterable
            Texts. If pyarrow is installed, pyarrow, pandas and polars columns are read
            without a copy. None, NaN and other missing values have no tokens. A lone
            surrogate counts as U+FFFD.

        Returns
        -------
        Ragged
            Rows and offsets of all texts.

        Raises
        ------
        TypeError
            If ``texts`` is a single str, or an element is neither a str nor missing.
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
        """Tokenize a batch; ``first`` is the index of its first text, for messages."""
        if self._cache is not None and n_texts(part):
            return Ragged(*self._cache.rows(encoded(part, first)))
        if not n_texts(part):
            return Ragged(np.empty(0, np.int32), np.zeros(1, np.int64))
        return Ragged(*self._resolve(decoded(part, first)))


class Words:
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
    composed : bool
        Whether to normalize texts to Unicode NFC before the search.
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
        """The words of a text, normalized as for the lookup."""
        if self._composed:
            text = unicodedata.normalize("NFC", text)
        if self._find is None:
            found: Any = text.split()
        elif isinstance(self._find, re.Pattern):
            found = (match.group() for match in self._find.finditer(text))
        else:
            found = _strings(self._find(text))
        # Words, not the text: the lowercase of sigma differs at the end of a word.
        return (word.lower() for word in found) if self._lowercase else iter(found)


def _strings(found: Any) -> list[str]:
    """Checks that a callable returned a list of str."""
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

    Returns
    -------
    Tokens
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
    # No case folding: NFC composes h and U+0331 to one character, but not H and U+0331.
    where = None
    if pattern == "whitespace":
        where = cuts(SPACES)
    elif pattern in WITHIN_WORDS:
        where = cuts(OUTSIDE_WORDS)
    words = Words(finder_of(pattern), vocabulary, lowercase=lowercase, composed=True)
    return Tokens(words, where)


def finder_of(tokenizer: Any) -> Any:
    """Convert a tokenizer to the ``find`` argument of `Words`.

    Parameters
    ----------
    tokenizer : None, str or callable
        Tokenizer as in `tokens_of`, but not a Hugging Face tokenizer.

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
            f"{tokenizer!r} is none, {error}"
        ) from error
