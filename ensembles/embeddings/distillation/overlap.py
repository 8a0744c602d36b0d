"""Overlap of training texts with the texts of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

LENGTH = 5  # words of an n-gram
WORD = re.compile(r"[^\W_]+")


class Overlap(NamedTuple):
    """Overlap of training texts with evaluation texts.

    Attributes
    ----------
    n_equal : int
        Number of distinct evaluation texts that are training texts too, compared in
        lowercase and without punctuation.
    n_texts : int
        Number of distinct evaluation texts, compared in the same way.
    n_shared : int
        Number of distinct sequences of five words of the evaluation texts that occur in
        a training text.
    n_sequences : int
        Number of distinct sequences of five words of the evaluation texts.
    """

    n_equal: int
    n_texts: int
    n_shared: int
    n_sequences: int

    @property
    def share(self) -> float:
        """Share of the sequences of five words that occur in a training text."""
        return self.n_shared / self.n_sequences if self.n_sequences else 0.0


def find_overlap(texts: Iterable[str], evaluation: Iterable[str]) -> Overlap:
    """Overlap of training texts with evaluation texts.

    Parameters
    ----------
    texts : iterable of str
        Training texts.
    evaluation : iterable of str
        Texts of the evaluation.

    Returns
    -------
    Overlap
    """
    documents = {tuple(_words(text)) for text in evaluation} - {()}
    sequences = {run for words in documents for run in _sequences(words)}
    equal: set[tuple[str, ...]] = set()
    shared: set[tuple[str, ...]] = set()
    for text in texts:
        words = tuple(_words(text))
        if words in documents:
            equal.add(words)
        shared.update(run for run in _sequences(words) if run in sequences)
    return Overlap(len(equal), len(documents), len(shared), len(sequences))


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _sequences(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[k : k + LENGTH] for k in range(len(words) - LENGTH + 1))
