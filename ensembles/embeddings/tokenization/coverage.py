"""How many tokens of texts have a vector, counted while vectors are made."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from ensembles.embeddings.tokenization.tokenizer import Ragged

# Categories of Unicode that make a token more than punctuation.
MEANING = ("L", "N", "M", "So")


class Coverage:
    """Counts of texts and tokens; threads may add to one together.

    Attributes
    ----------
    found : list of (int, int, int, int, int)
        Of each batch texts, texts without a known token, tokens, tokens with a vector,
        texts that are cut off.
    """

    def __init__(self) -> None:
        self.found: list[tuple[int, int, int, int, int]] = []

    def add(self, ragged: Ragged) -> None:
        """Count the tokens of some texts."""
        known = ragged.rows >= 0
        totals = np.zeros(known.size + 1, np.int64)
        np.cumsum(known, out=totals[1:])
        by_text = np.diff(totals[ragged.offsets])
        n_empty = int(by_text.size - np.count_nonzero(by_text))
        self.found.append((by_text.size, n_empty, known.size, int(totals[-1]), 0))

    def add_texts(self, n_texts: int, n_empty: int, n_cut: int) -> None:
        """Count texts whose tokens a model does not tell."""
        self.found.append((n_texts, n_empty, 0, 0, n_cut))

    def _sum(self, column: int) -> int:
        return sum(batch[column] for batch in self.found)

    @property
    def n_texts(self) -> int:
        """Texts."""
        return self._sum(0)

    @property
    def n_empty(self) -> int:
        """Texts without a token that has a vector: theirs is of zeros."""
        return self._sum(1)

    @property
    def n_tokens(self) -> int:
        """Tokens, with a vector or without."""
        return self._sum(2)

    @property
    def n_cut(self) -> int:
        """Texts with more tokens than a model reads."""
        return self._sum(4)

    @property
    def share(self) -> float | None:
        """Share of tokens that have a vector, None where no token was counted."""
        return self._sum(3) / self.n_tokens if self.n_tokens else None


def lost_tokens(
    pieces: Iterable[str],
    vocabulary: Mapping[str, int],
    words: Callable[[str], Iterator[str]],
    *,
    lowercase: bool,
) -> Iterator[str]:
    """Pieces between white space that have a vector, but are no word to a tokenizer.

    Parameters
    ----------
    pieces : iterable of str
    vocabulary : mapping of str to row
    words : callable
        From a text to its words, of which letters and digits alone are one.
    lowercase : bool
        Whether pieces are put in small letters before they are looked up.

    Yields
    ------
    str
        Not punctuation alone, which hardly anybody misses.
    """
    for piece in pieces:
        if piece.isalnum():
            continue  # a word to any tokenizer of words
        token = piece.lower() if lowercase else piece
        if token in vocabulary and [*words(piece)] != [token] and _means(token):
            yield piece


def _means(token: str) -> bool:
    return any(unicodedata.category(c).startswith(MEANING) for c in token)
