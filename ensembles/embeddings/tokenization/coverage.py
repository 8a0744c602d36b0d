"""Token coverage: the share of tokens that have a vector."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows

# Unicode categories (letters, numbers, marks, other symbols) beyond punctuation.
MEANING = ("L", "N", "M", "So")


class Coverage:
    """Thread-safe counts of texts and tokens.

    Attributes
    ----------
    counts : list of (int, int, int, int, int)
        Counts of each batch: texts, texts without a known token, tokens, tokens with a
        vector, truncated texts.
    """

    def __init__(self) -> None:
        self.counts: list[tuple[int, int, int, int, int]] = []

    def add(self, ragged: RaggedRows) -> None:
        """Add the counts of a batch of tokenized texts."""
        is_known = ragged.rows >= 0
        totals = np.zeros(is_known.size + 1, np.int64)
        np.cumsum(is_known, out=totals[1:])
        n_known = np.diff(totals[ragged.offsets])
        n_empty = int(n_known.size - np.count_nonzero(n_known))
        self.counts.append((n_known.size, n_empty, is_known.size, int(totals[-1]), 0))

    def add_texts(self, n_texts: int, n_empty: int, n_truncated: int) -> None:
        """Add the counts of a batch of texts whose tokens are not available."""
        self.counts.append((n_texts, n_empty, 0, 0, n_truncated))

    def _sum(self, column: int) -> int:
        return sum(batch[column] for batch in self.counts)

    @property
    def n_texts(self) -> int:
        """Number of texts."""
        return self._sum(0)

    @property
    def n_empty(self) -> int:
        """Number of texts without a known token; their vectors are zero."""
        return self._sum(1)

    @property
    def n_tokens(self) -> int:
        """Number of tokens, known and unknown."""
        return self._sum(2)

    @property
    def n_truncated(self) -> int:
        """Number of texts that the model truncates."""
        return self._sum(4)

    @property
    def share(self) -> float | None:
        """Share of tokens that have a vector; None if no token was counted."""
        return self._sum(3) / self.n_tokens if self.n_tokens else None


def split_tokens(
    tokens: Iterable[str],
    vocabulary: Mapping[str, int],
    words: Callable[[str], Iterator[str]],
    *,
    lowercase: bool,
) -> Iterator[str]:
    """Yield in-vocabulary tokens that the tokenizer splits or drops.

    Parameters
    ----------
    tokens : iterable of str
        Whitespace-delimited tokens of texts.
    vocabulary : mapping of str to row
        Row of each known token in the vector table.
    words : callable
        Function from a text to its words; it must not split letters and digits.
    lowercase : bool
        Whether to lowercase ``tokens`` before the lookup.

    Yields
    ------
    str
        Such a token, unless it consists of punctuation only.
    """
    for token in tokens:
        if token.isalnum():
            continue  # every word tokenizer keeps it in one piece
        key = token.lower() if lowercase else token
        if key in vocabulary and [*words(token)] != [key] and _has_meaning(key):
            yield token


def _has_meaning(token: str) -> bool:
    return any(unicodedata.category(c).startswith(MEANING) for c in token)
