"""Word weightings, such as SIF and inverse document frequency, from word counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.embeddings.pooling.engine import Divide
from ensembles.registry import RegisteredFunction, Table, register

A_FOR_COUNTS = 1e-3  # SIF's smoothing constant
A_FOR_RANKS = 1e-4  # the same, with ranks in place of counts
BY_ORDER = "the order of the vectors (Zipf's law)"
ROUNDING = 1e-12  # relative tolerance between two ways to compute the same share
MEAN_LENGTH = 11.0  # words per text without training texts, as in uSIF's own code


class WordFrequencies(NamedTuple):
    """Word counts and document counts.

    Attributes
    ----------
    counts : ndarray of shape (n_rows,)
        Count of each word that has a vector.
    all_counts : ndarray of shape (n_words,)
        Count of each distinct word. Words without a vector are included only if the
        source lists them, as a mapping of counts does.
    total_count : float or None, default=None
        Total number of words, known and unknown; None is the sum of ``all_counts``.
    mean_length : float or None, default=None
        Mean number of known words in the training texts that have any; None without
        such texts.
    ranked : bool, default=False
        Whether ``counts`` are shares derived from ranks by Zipf's law, not counts.
    documents : ndarray of shape (n_rows,) or None, default=None
        Number of training texts that contain each word; None without known words.
    n_documents : int, default=0
        Number of training texts.
    source : str, default="counts"
        Origin of the counts, for messages.
    """

    counts: Float64
    all_counts: Float64
    total_count: float | None = None
    mean_length: float | None = None
    ranked: bool = False
    documents: Float64 | None = None
    n_documents: int = 0
    source: str = "counts"

    @property
    def probabilities(self) -> Float64:
        """Relative frequency of each word that has a vector."""
        return np.asarray(self.counts / self.total)

    @property
    def total(self) -> float:
        """Total number of words; 1 if there are none."""
        total = self.total_count
        return float(self.all_counts.sum() if total is None else total) or 1.0


class Weighting(RegisteredFunction):
    """A registered word weighting and its properties.

    Parameters
    ----------
    function : callable (frequencies, **params) -> weights of shape (n_rows,)
        Computes non-negative weights from `WordFrequencies`.
    divide : {"weights", "count"}
        Divisor of weighted sums: the sum of the weights, or the number of words.
    by_variance_share : bool, default=False
        Whether ``remove_components`` removes each component in proportion to its share
        of the variance, instead of completely.
    needs : {"counts", "documents", "nothing"}, default="counts"
        Statistics that the function uses: word counts, document counts, or only the
        order of the vectors.
    """

    noun = "word weighting"
    n_inputs = 1

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        divide: Divide,
        by_variance_share: bool = False,
        needs: str = "counts",
    ) -> None:
        super().__init__(function)
        self.divide = divide
        self.by_variance_share = by_variance_share
        self.needs = needs

    def __call__(self, frequencies: WordFrequencies, **params: Any) -> Float64:
        """Weights of all rows of the vector table."""
        return np.asarray(self.function(frequencies, **params), np.float64)


WEIGHTINGS: Table[Weighting] = Table("word weighting", Weighting)


@register(WEIGHTINGS, divide="count")
def sif(frequencies: WordFrequencies, *, a: float | None = None) -> Float64:
    """Smooth inverse frequency, a / (a + p(word)); words with count zero weigh 1.

    Parameters
    ----------
    frequencies : WordFrequencies
        Word counts.
    a : float, positive, or None, default=None
        Smoothing constant; larger values make the weights more equal. None is 1e-3
        with counts, as in the paper. With ranks in place of counts, which have another
        scale, it is 1e-4, as in model2vec.

    References
    ----------
    Arora, Liang & Ma (2017), "A simple but tough-to-beat baseline for sentence
    embeddings", ICLR, algorithm 1; its component is ``remove_components=1``.
    """
    if a is None:
        a = A_FOR_RANKS if frequencies.ranked else A_FOR_COUNTS
    return _smooth_inverse(frequencies, a, "sif")


def _smooth_inverse(frequencies: WordFrequencies, a: float, name: str) -> Float64:
    if not (isinstance(a, Real) and 0 < a < math.inf):
        raise ValueError(f"a of {name!r} must be positive, found {a!r}")
    return np.asarray(a / (a + frequencies.probabilities))


@register(WEIGHTINGS, divide="count", by_variance_share=True)
def usif(frequencies: WordFrequencies, *, length: float | None = None) -> Float64:
    """Unsupervised SIF, a / (a / 2 + p(word)), with ``a`` from the word frequencies.

    With V distinct words, alpha is the share of words with
    p(word) > 1 - (1 - 1 / V) ** length, and a = (1 - alpha) / (alpha V / 2). Words with
    count zero weigh 2. If no word exceeds the threshold, all words weigh 2, the limit.
    Components are removed in proportion to their shares of the variance:
    ``remove_components=5`` in the paper.

    Parameters
    ----------
    frequencies : WordFrequencies
        Word counts and mean text length.
    length : float, at least 1, or None, default=None
        Number of words per text. None is the mean over the training texts, or 11
        without training texts.

    References
    ----------
    Ethayarajh (2018), "Unsupervised random walk sentence embeddings: a strong but
    simple baseline", Workshop on Representation Learning for NLP, sections 3.3 and 4.
    """
    if length is None:
        length = max(1.0, frequencies.mean_length or MEAN_LENGTH)
    if not (isinstance(length, Real) and 1 <= length < math.inf):
        raise ValueError(f"length of 'usif' must be at least 1, found {length!r}")
    counts = frequencies.all_counts[frequencies.all_counts > 0]
    n_words = max(len(counts), 1)
    threshold = 1.0 if n_words == 1 else -math.expm1(length * math.log1p(-1 / n_words))
    threshold *= 1 + ROUNDING  # equally frequent words must not exceed it by rounding
    alpha = float((counts / frequencies.total > threshold).sum()) / n_words
    a = math.inf if alpha == 0 else (1 - alpha) / (alpha * n_words / 2)
    return 1 / (0.5 + frequencies.probabilities / a)


@register(WEIGHTINGS, divide="weights", needs="documents")
def idf(frequencies: WordFrequencies) -> Float64:
    """Inverse document frequency, log((1 + n) / (1 + n(word))) + 1, never below 1.

    n is the number of training texts, n(word) the number of training texts that contain
    the word. With ``rule="mean"`` the result is the mean weighted by tf-idf.

    References
    ----------
    Spärck Jones (1972), "A statistical interpretation of term specificity and its
    application in retrieval", Journal of Documentation 28; smoothed as scikit-learn's.
    """
    documents, n = frequencies.documents, frequencies.n_documents
    if documents is None:
        raise ValueError(
            "weights='idf' (--weights idf) requires texts with known words in fit"
        )
    return np.asarray(np.log((1 + n) / (1 + documents)) + 1)


@register(WEIGHTINGS, divide="count", needs="nothing")
def zipf(frequencies: WordFrequencies, *, a: float = A_FOR_RANKS) -> Float64:
    """SIF with ranks in place of counts: a / (a + p), p proportional to 1 / (row + 2).

    The vectors must be sorted by word frequency, most frequent first.

    Parameters
    ----------
    frequencies : WordFrequencies
        Only the number of rows is used.
    a : float, positive, default=1e-4
        Smoothing constant; larger values make the weights more equal.

    References
    ----------
    Zipf (1949), Human behavior and the principle of least effort; for word vectors
    Tulkens & van Dongen (2024), model2vec, ``distill/inference.py``, the source of the
    constants.
    """
    return _smooth_inverse(zipf_frequencies(len(frequencies.counts)), a, "zipf")


def zipf_frequencies(n_rows: int) -> WordFrequencies:
    """Frequencies proportional to 1 / (row + 2), by Zipf's law.

    Parameters
    ----------
    n_rows : int
        Number of rows of the vector table, most frequent word first.

    Returns
    -------
    WordFrequencies
        Shares that sum to 1, with ``ranked=True``.
    """
    shares = 1 / np.arange(2.0, n_rows + 2)
    shares /= shares.sum()
    return WordFrequencies(shares, shares, ranked=True, source=BY_ORDER)


def from_counts(
    counts: Mapping[str, float],
    rows: Mapping[str, int],
    n_rows: int,
    *,
    lowercase: bool = False,
) -> WordFrequencies:
    """Frequencies from a mapping of words to counts.

    Parameters
    ----------
    counts : mapping of str to number, not negative
        Count of each word, with or without a vector.
    rows : mapping of str to row
        Row of each known word in the vector table.
    n_rows : int
        Number of rows of the vector table.
    lowercase : bool, default=False
        Whether to lowercase words before the lookup; counts of words with the same row
        are added.

    Returns
    -------
    WordFrequencies
        Counts per row and per word of ``counts``.

    Raises
    ------
    ValueError
        If a count is negative or not finite, or all counts are zero.
    """
    all_counts = np.array(list(counts.values()), np.float64)
    is_valid = (np.isfinite(all_counts) & (all_counts >= 0)).all()
    if not is_valid or not all_counts.sum():
        raise ValueError(
            "frequencies must be finite, not negative, and not all zero; found "
            f"{all_counts.min(initial=0)} to {all_counts.max(initial=0)}"
        )
    row_counts = np.zeros(n_rows)
    for word, count in counts.items():
        row = rows.get(word.lower() if lowercase else word)
        if row is not None:
            row_counts[row] += count
    return WordFrequencies(row_counts, all_counts)
