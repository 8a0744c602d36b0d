"""Word vectors in memory: tokens and a matrix with one row per token."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensembles.dtypes import FLOATS

if TYPE_CHECKING:
    from ensembles.embeddings.vectors.ngrams import NgramVectors
from ensembles._typing import Float32

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Immutable tokens and their vectors.

    Clones of an estimator share the object, so a grid search reads a file only once.

    Parameters
    ----------
    tokens : sequence of n_tokens str
        Token of each row. The first row of a duplicate token counts.
    matrix : ndarray of shape (n_tokens, dim), float32
        Vector of each token, possibly memory-mapped.
    counts : ndarray of shape (n_tokens,), int64, or None, default=None
        Frequency of each token in the training corpus of the vectors; None if unknown.
    tokenizer : tokenizers.Tokenizer or None, default=None
        Tokens whose token ids are the rows; None for vectors of words.
    ngrams : NgramVectors or None, default=None
        N-gram vectors that compose unknown words; None if there are none.
    preweighted : bool, default=False
        Whether word weights are already part of the vectors, so that sentences are
        plain means.
    normalize : bool or None, default=None
        Whether the model L2-normalizes sentence vectors; None if unspecified.
    unk_index : int or None, default=None
        Row of the unknown token, which is not in the vocabulary; None if there is none.
    source : str, default="vectors"
        Path or name of the origin, for messages.
    format : str, default="vectors in memory"
        Name of the file format, for display.
    phrases : ndarray of shape (n_phrases, 2), int32, or None, default=None
        Rows of both tokens of each phrase, a pair of adjacent tokens. The last
        ``n_phrases`` rows are the vectors of the phrases; their ``tokens`` are names
        without a meaning. None if there are none.
    """

    tokens: Sequence[str]
    matrix: Float32 = field(repr=False)
    counts: Counts | None = field(default=None, repr=False)
    tokenizer: Any = field(default=None, repr=False)
    ngrams: NgramVectors | None = field(default=None, repr=False)
    preweighted: bool = False
    normalize: bool | None = None
    unk_index: int | None = None
    source: str = "vectors"
    format: str = "vectors in memory"
    phrases: NDArray[np.int32] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_matrix(self.matrix, self.source)
        if len(self.tokens) != len(self.matrix):
            raise ValueError(
                f"{self.source} must have one vector per token, found "
                f"{len(self.tokens)} tokens and {len(self.matrix)} vectors"
            )

    def __repr__(self) -> str:
        n_tokens, dim = self.matrix.shape
        return f"WordVectors({self.source!r}, {n_tokens} tokens, {dim} dimensions)"

    def __sklearn_clone__(self) -> WordVectors:
        return self

    def __deepcopy__(self, memo: Any) -> WordVectors:
        return self

    @property
    def n_words(self) -> int:
        """Number of rows of single tokens; the rows of phrases follow them."""
        n_phrases = 0 if self.phrases is None else len(self.phrases)
        return len(self.tokens) - n_phrases

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Row of each token; the first row of a duplicate token."""
        tokens = self.tokens if self.phrases is None else self.tokens[: self.n_words]
        if self.tokenizer is not None:
            pairs = enumerate(tokens)
            return {t: row for row, t in pairs if t and row != self.unk_index}
        rows = dict(zip(tokens, range(len(tokens)), strict=True))
        n_duplicates = len(tokens) - len(rows)
        if n_duplicates:
            rows = {}
            example = None
            for row, token in enumerate(tokens):
                if rows.setdefault(token, row) != row:
                    example = example or token
            warnings.warn(
                f"{self.source} has {n_duplicates} duplicate tokens, such as "
                f"{example!r}; the first vector of each is used",
                stacklevel=2,
            )
        return rows


def check_matrix(matrix: Any, source: str) -> None:
    """Raise unless an object is a non-empty 2-D array of real numbers.

    Parameters
    ----------
    matrix : object
        Object to check.
    source : str
        Name of the origin, for messages.

    Raises
    ------
    TypeError
        If it is not an array, or its dtype is neither floating point nor integer.
    ValueError
        If it is not two-dimensional, or an axis is empty.
    """
    dtype = getattr(matrix, "dtype", None)
    is_real = dtype in FLOATS or getattr(dtype, "kind", "") in "iu"
    if not isinstance(matrix, np.ndarray) or not is_real:
        raise TypeError(f"{source} must be an array of real numbers, found {dtype}")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{source} must have shape (n_tokens, dim), both at least 1, found "
            f"{matrix.shape}"
        )


def check_finite(matrix: Float32, tokens: Sequence[str], source: str) -> None:
    """Raise if a vector contains NaN or infinity.

    Parameters
    ----------
    matrix : ndarray of shape (n_tokens, dim)
        Vectors to check.
    tokens : sequence of str
        Token of each row, for messages.
    source : str
        Name of the origin, for messages.

    Raises
    ------
    ValueError
        If a vector is not finite; the message names its token and row.
    """
    step = max(1, (1 << 22) // matrix.shape[1])
    for start in range(0, len(matrix), step):
        is_finite = np.isfinite(matrix[start : start + step]).all(axis=1)
        if not is_finite.all():
            row = start + int(np.flatnonzero(~is_finite)[0])
            raise ValueError(
                f"{source} must have finite numbers: the vector of {tokens[row]!r} "
                f"(row {row}) has NaN or infinity"
            )


def from_pairs(tokens: Sequence[Any], matrix: Any, source: str) -> WordVectors:
    """Build word vectors from tokens and a matrix, with validation.

    Parameters
    ----------
    tokens : sequence of str
        Token of each row.
    matrix : array-like of shape (n_tokens, dim)
        Vector of each token.
    source : str
        Name of the origin, for messages.

    Returns
    -------
    WordVectors

    Raises
    ------
    TypeError
        If a token is not a string, or the matrix is not numeric.
    ValueError
        If the shapes do not fit, the matrix is empty, or a vector is not finite.
    """
    try:
        rows = np.asarray(matrix)
    except ValueError as error:  # rows of different lengths
        raise ValueError(
            f"{source} must have vectors of equal length: {error}"
        ) from None
    check_matrix(rows, source)
    words = [check_token(token, source) for token in tokens]
    table = WordVectors(words, as_float32(rows), source=source)
    check_finite(table.matrix, table.tokens, source)
    return table


def check_token(token: Any, source: str) -> str:
    """Return a token as str; raise a TypeError if it is not a string."""
    if not isinstance(token, str):
        raise TypeError(f"tokens of {source} must be strings, found {token!r}")
    return str(token)


def from_mapping(vectors: Mapping[Any, Any], source: str) -> WordVectors:
    """Build word vectors from a mapping of token to vector, in its order."""
    if not vectors:
        raise ValueError(f"{source} must not be empty")
    return from_pairs(list(vectors), list(vectors.values()), source)


def as_float32(matrix: NDArray[Any]) -> Float32:
    """Convert a matrix to C-contiguous float32, without a copy if it already is."""
    if matrix.dtype == np.float32 and matrix.flags.c_contiguous:
        return matrix
    return np.ascontiguousarray(matrix, np.float32)
