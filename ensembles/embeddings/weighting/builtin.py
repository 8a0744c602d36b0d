"""Word weights: how much each word counts, by how often it is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.embeddings.pooling.spec import Divide
from ensembles.registry import RegisteredFunction, Table, register

REAL, RANKED = 1e-3, 1e-4  # SIF's a, with counts and with ranks in their stead
BY_ORDER = "the order of the vectors (Zipf's law)"
ROUNDING = 1e-12  # of a share, beside one that is computed in another way
LENGTH = 11.0  # words of a text where none was seen: uSIF's own code


class Frequencies(NamedTuple):
    """How often words are met.

    Attributes
    ----------
    counts : ndarray of shape (n_rows,)
        Of the words that have a vector.
    every : ndarray of shape (n_words,)
        Of all words that were told apart, with a vector or without.
    n_met : float or None
        Words that were met in all; None is the sum of ``every``.
    mean_length : float or None
        Words of a text; None where no text was seen.
    ranked : bool
        Whether the counts are not counts, but made of ranks by Zipf's law.
    documents : ndarray of shape (n_rows,) or None
        In how many texts each word was met.
    n_documents : int
    source : str
        Where the counts come from.
    """

    counts: Float64
    every: Float64
    n_met: float | None = None
    mean_length: float | None = None
    ranked: bool = False
    documents: Float64 | None = None
    n_documents: int = 0
    source: str = "counts"

    @property
    def probabilities(self) -> Float64:
        """Share of each word that has a vector among all that were met."""
        return np.asarray(self.counts / self.total)

    @property
    def total(self) -> float:
        """Words that were met, or 1."""
        return float(self.every.sum() if self.n_met is None else self.n_met) or 1.0


class Weighting(RegisteredFunction):
    """A function from frequencies to weights, with the facts that hold of it.

    Parameters
    ----------
    function : callable (frequencies, **params) -> weights of shape (n_rows,)
    divide : {"weights", "count"}
        What the weighted sum is divided by to be the mean.
    piecewise : bool, default=False
        Whether components are removed by their share of the variance, not whole.
    needs : {"counts", "documents", "nothing"}, default="counts"
    """

    noun = "word weighting"
    n_inputs = 1

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        divide: Divide,
        piecewise: bool = False,
        needs: str = "counts",
    ) -> None:
        super().__init__(function)
        self.divide = divide
        self.piecewise = piecewise
        self.needs = needs

    def __call__(self, frequencies: Frequencies, **params: Any) -> Float64:
        """Weights of all rows."""
        return np.asarray(self.function(frequencies, **params), np.float64)


WEIGHTINGS: Table[Weighting] = Table("word weighting", Weighting)


@register(WEIGHTINGS, divide="count")
def sif(frequencies: Frequencies, *, a: float | None = None) -> Float64:
    """Smooth inverse frequency, a / (a + p(word)); words never met weigh 1.

    Parameters
    ----------
    a : float, positive, or None, default=None
        None is 1e-3 with real counts, as in the paper, and 1e-4 where ranks stand for
        them, as in model2vec: the two are not on one scale.

    References
    ----------
    Arora, Liang & Ma (2017), "A simple but tough-to-beat baseline for sentence
    embeddings", ICLR, algorithm 1; its component is ``remove_components=1``.
    """
    if a is None:
        a = RANKED if frequencies.ranked else REAL
    if not (isinstance(a, Real) and 0 < a < math.inf):
        raise ValueError(f"a of 'sif' must be positive, found {a!r}")
    return a / (a + frequencies.probabilities)


@register(WEIGHTINGS, divide="count", piecewise=True)
def usif(frequencies: Frequencies, *, length: float | None = None) -> Float64:
    """Unsupervised SIF, a / (a / 2 + p(word)), with ``a`` from the vocabulary itself.

    With V words, alpha is the share of those with p(word) > 1 - (1 - 1 / V) ** length,
    and a = (1 - alpha) / (alpha V / 2). Words never met weigh 2. Where no word is that
    frequent all weigh 2, the limit. Its components are removed by their shares of the
    variance: ``remove_components=5`` in the paper.

    Parameters
    ----------
    length : float, at least 1, or None, default=None
        Words of a text. None takes the mean of the texts given to fit, or 11.

    References
    ----------
    Ethayarajh (2018), "Unsupervised random walk sentence embeddings: a strong but
    simple baseline", Workshop on Representation Learning for NLP, sections 3.3 and 4.
    """
    if length is None:
        length = max(1.0, frequencies.mean_length or LENGTH)
    if not (isinstance(length, Real) and 1 <= length < math.inf):
        raise ValueError(f"length of 'usif' must be at least 1, found {length!r}")
    every = frequencies.every[frequencies.every > 0]
    n_words = max(len(every), 1)
    threshold = 1.0 if n_words == 1 else -math.expm1(length * math.log1p(-1 / n_words))
    threshold *= 1 + ROUNDING  # words that are all alike are none above
    alpha = float((every / frequencies.total > threshold).sum()) / n_words
    a = math.inf if alpha == 0 else (1 - alpha) / (alpha * n_words / 2)
    return 1 / (0.5 + frequencies.probabilities / a)


@register(WEIGHTINGS, divide="weights", needs="documents")
def idf(frequencies: Frequencies) -> Float64:
    """Inverse document frequency, log((1 + n) / (1 + n(word))) + 1, never below 1.

    n texts were given to fit, n(word) of them have the word. With ``rule="mean"`` it is
    the mean weighted by tf-idf.

    References
    ----------
    Spärck Jones (1972), "A statistical interpretation of term specificity and its
    application in retrieval", Journal of Documentation 28; smoothed as scikit-learn's.
    """
    met, n = frequencies.documents, frequencies.n_documents
    if met is None:
        raise ValueError("weights='idf' must have texts in fit to count, found none")
    return np.asarray(np.log((1 + n) / (1 + met)) + 1)


@register(WEIGHTINGS, divide="count", needs="nothing")
def zipf(frequencies: Frequencies, *, a: float = RANKED) -> Float64:
    """SIF with ranks in place of counts: a / (a + p), p falling as 1 / (row + 2).

    The vectors must be in the order of frequency, most frequent first.

    Parameters
    ----------
    a : float, positive, default=1e-4

    References
    ----------
    Zipf (1949), Human behavior and the principle of least effort; for word vectors
    Tulkens & van Dongen (2024), model2vec, ``distill/inference.py``, whose numbers
    these are.
    """
    return np.asarray(sif.function(by_rank(len(frequencies.counts)), a=a))


def by_rank(n_rows: int) -> Frequencies:
    """Frequencies that fall as 1 / (row + 2), by Zipf's law.

    Parameters
    ----------
    n_rows : int

    Returns
    -------
    Frequencies
    """
    shares = 1 / np.arange(2.0, n_rows + 2)
    shares /= shares.sum()
    return Frequencies(shares, shares, ranked=True, source=BY_ORDER)


def from_list(
    counts: Mapping[str, float],
    rows: Mapping[str, int],
    n_rows: int,
    *,
    lowercase: bool = False,
) -> Frequencies:
    """Frequencies from a list of words and counts.

    Parameters
    ----------
    counts : mapping of str to number, not negative
    rows : mapping of str to row
    n_rows : int
    lowercase : bool, default=False
        Whether words are put in small letters first; counts of the same word add up.

    Returns
    -------
    Frequencies

    Raises
    ------
    ValueError
        If a count is negative or not finite, or none is positive.
    """
    every = np.array(list(counts.values()), np.float64)
    if not (np.isfinite(every) & (every >= 0)).all() or not every.sum():
        raise ValueError(
            "frequencies must be finite, not negative, and not all zero; found "
            f"{every.min(initial=0)} to {every.max(initial=0)}"
        )
    found = np.zeros(n_rows)
    for word, count in counts.items():
        row = rows.get(word.lower() if lowercase else word)
        if row is not None:
            found[row] += count
    return Frequencies(found, every)
