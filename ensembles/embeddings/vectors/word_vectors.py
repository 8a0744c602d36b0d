"""Word vectors in memory: tokens and a matrix with one row per token."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.vectors.vector_table import Matrix, as_stored, check_matrix

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
    matrix : ndarray of shape (n_tokens, dim) or VectorTable
        Vector of each token, possibly memory-mapped: float32, float16, bfloat16 or
        int8, as in the file. A ``VectorTable`` computes the vectors that are read from
        stored ones, which are scaled, or shared by tokens.
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
    matrix: Any = field(repr=False)  # Matrix; callers index it as an array
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
    def vocabulary(self) -> Mapping[str, int]:
        """Row of each token; the first row of a duplicate token."""
        if isinstance(self.tokens, TokensById):
            return RowsByToken(self.tokens, self.unk_index)
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


class TokensById(Sequence[str]):
    """Tokens of a Hugging Face tokenizer by id, which stay in the tokenizer.

    A list of the 500 000 tokens of a multilingual tokenizer takes 35 MB, and a dict of
    them 80 MB.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Tokenizer.
    n_rows : int
        Number of rows of the table; ids without a token have the token "".
    """

    def __init__(self, tokenizer: Any, n_rows: int) -> None:
        self.tokenizer = tokenizer
        self._n_rows = n_rows

    def __len__(self) -> int:
        return self._n_rows

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(self._n_rows)[index]
        token_of = self.tokenizer.id_to_token
        if isinstance(numbers, range):
            return [token_of(number) or "" for number in numbers]
        return str(token_of(numbers) or "")

    def __iter__(self) -> Iterator[str]:
        token_of = self.tokenizer.id_to_token
        return (token_of(number) or "" for number in range(self._n_rows))


class RowsByToken(Mapping[str, int]):
    """Row of each token of a Hugging Face tokenizer, except of the unknown token.

    Parameters
    ----------
    tokens : TokensById
        The tokens.
    unk_index : int or None
        Row of the unknown token; None if there is none.
    """

    def __init__(self, tokens: TokensById, unk_index: int | None) -> None:
        self._tokens = tokens
        self._unk_index = unk_index

    def __getitem__(self, token: str) -> int:
        row = self._tokens.tokenizer.token_to_id(token) if token else None
        if row is None or row == self._unk_index:
            raise KeyError(token)
        return int(row)

    def __iter__(self) -> Iterator[str]:
        pairs = enumerate(self._tokens)
        return (token for row, token in pairs if token and row != self._unk_index)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def check_finite(matrix: Matrix, tokens: Sequence[str], source: str) -> None:
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
    table = WordVectors(words, as_stored(rows), source=source)
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
