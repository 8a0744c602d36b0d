"""Word vectors as every format gives them: tokens, and a row of a matrix for each."""

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
    from ensembles.embeddings.vectors.ngrams import Subwords
from ensembles._typing import Float32

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Tokens and their vectors, read once and never changed.

    An estimator's clones share it, so a grid search reads a file once.

    Parameters
    ----------
    tokens : sequence of n_tokens str
        Of a token that occurs twice the first row counts.
    matrix : ndarray of shape (n_tokens, dim), float32
        Perhaps mapped from a file.
    counts : ndarray of shape (n_tokens,), int64, or None, default=None
        How often each token was met where the vectors were trained.
    tokenizer : tokenizers.Tokenizer or None, default=None
        What the vectors belong to; its ids are the rows.
    subwords : Subwords or None, default=None
        What vectors of unknown words are made of.
    weighted : bool, default=False
        Whether the vectors are made for a plain mean: word weights are part of them.
    normalize : bool or None, default=None
        Whether their model brings sentences to length 1; None where it says nothing.
    unknown : int or None, default=None
        Row of what stands for unknown text, which is not in the vocabulary.
    source : str, default="vectors"
        For messages.
    format : str, default="vectors in memory"
        What they were read from.
    """

    tokens: Sequence[str]
    matrix: Float32 = field(repr=False)
    counts: Counts | None = field(default=None, repr=False)
    tokenizer: Any = field(default=None, repr=False)
    subwords: Subwords | None = field(default=None, repr=False)
    weighted: bool = False
    normalize: bool | None = None
    unknown: int | None = None
    source: str = "vectors"
    format: str = "vectors in memory"

    def __post_init__(self) -> None:
        check_matrix(self.matrix, self.source)
        if len(self.tokens) != len(self.matrix):
            raise ValueError(
                f"{self.source} must have a vector for each token: found "
                f"{len(self.tokens)} tokens and {len(self.matrix)} vectors"
            )

    def __repr__(self) -> str:
        n_tokens, dim = self.matrix.shape
        return f"WordVectors({self.source!r}, {n_tokens} tokens, {dim} dimensions)"

    def __sklearn_clone__(self) -> WordVectors:
        return self

    def __deepcopy__(self, memo: Any) -> WordVectors:
        return self

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Row of each token, the first where it occurs twice."""
        if self.tokenizer is not None:
            named = enumerate(self.tokens)
            return {t: row for row, t in named if t and row != self.unknown}
        rows = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        n_twice = len(self.tokens) - len(rows)
        if n_twice:
            rows = {}
            example = None
            for row, token in enumerate(self.tokens):
                if rows.setdefault(token, row) != row:
                    example = example or token
            warnings.warn(
                f"{self.source} has {n_twice} tokens twice, {example!r} among them; "
                "the first vector of each is kept",
                stacklevel=2,
            )
        return rows


def check_matrix(matrix: Any, source: str) -> None:
    """Raise unless it is a table of at least one vector of floats.

    Parameters
    ----------
    matrix : object
    source : str
        For messages.

    Raises
    ------
    TypeError
        If its numbers are not real, as in an array of objects.
    ValueError
        If it is not of two axes, neither of them empty.
    """
    dtype = getattr(matrix, "dtype", None)
    is_real = dtype in FLOATS or getattr(dtype, "kind", "") in "iu"
    if not isinstance(matrix, np.ndarray) or not is_real:
        raise TypeError(f"{source} must be an array of real numbers, found {dtype}")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{source} must have shape (n_tokens, dim), at least 1 each: found "
            f"{matrix.shape}"
        )


def check_finite(matrix: Float32, tokens: Sequence[str], source: str) -> None:
    """Raise if a vector holds NaN or infinity, naming its token.

    Parameters
    ----------
    matrix : ndarray of shape (n_tokens, dim)
    tokens : sequence of str
    source : str
        For messages.

    Raises
    ------
    ValueError
    """
    step = max(1, (1 << 22) // matrix.shape[1])
    for start in range(0, len(matrix), step):
        fine = np.isfinite(matrix[start : start + step]).all(axis=1)
        if not fine.all():
            row = start + int(np.flatnonzero(~fine)[0])
            raise ValueError(
                f"{source} must hold finite numbers: the vector of {tokens[row]!r} "
                f"(row {row}) has NaN or infinity"
            )


def from_pairs(tokens: Sequence[Any], matrix: Any, source: str) -> WordVectors:
    """Word vectors from tokens and their vectors, checked.

    Parameters
    ----------
    tokens : sequence of str
    matrix : array-like of shape (n_tokens, dim)
    source : str
        For messages.

    Returns
    -------
    WordVectors

    Raises
    ------
    TypeError, ValueError
        As in `check_matrix` and `check_finite`, or if a token is no string.
    """
    try:
        rows = np.asarray(matrix)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{source} must have vectors of one length: {error}") from None
    check_matrix(rows, source)
    words = [check_token(token, source) for token in tokens]
    table = WordVectors(words, as_float32(rows), source=source)
    check_finite(table.matrix, table.tokens, source)
    return table


def check_token(token: Any, source: str) -> str:
    """The token, known to be a string."""
    if not isinstance(token, str):
        raise TypeError(f"tokens of {source} must be strings, found {token!r}")
    return str(token)


def from_mapping(vectors: Mapping[Any, Any], source: str) -> WordVectors:
    """Word vectors from a mapping of token to vector, in its order."""
    if not vectors:
        raise ValueError(f"{source} must not be empty")
    return from_pairs(list(vectors), list(vectors.values()), source)


def as_float32(matrix: NDArray[Any]) -> Float32:
    """The matrix in float32, rows one after the other; itself where it is so."""
    if matrix.dtype == np.float32 and matrix.flags.c_contiguous:
        return matrix
    return np.ascontiguousarray(matrix, np.float32)
