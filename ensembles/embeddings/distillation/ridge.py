"""Ridge regression from the token counts of texts to target vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.distillation.loops import (
    add_normal_product,
    add_squares,
    add_transposed_product,
)
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows
from ensembles.parallel import chunks, map_threads, resolve_n_threads

TILE = 64  # columns solved together: a row of a tile is four cache lines
CONVERGED = 1e-13  # square of the relative residual at which float32 is exhausted
BLOCK = 8192  # rows of targets converted to float32 at once


def fit_ridge(
    texts: RaggedRows,
    targets: NDArray[np.floating],
    prior: Float32,
    *,
    penalties: Float32,
    n_iter: int,
    n_tokens: NDArray[np.integer] | None = None,
    weights: NDArray[np.float32] | None = None,
    n_threads: int | None = 1,
    progress: Callable[[int], None] | None = None,
) -> Float32:
    """Token vectors whose sums approximate the target vector of each text.

    Minimizes ``sum(weights * |A U - targets|**2) + sum(penalties * |U - prior|**2)``
    over ``U``, where row ``i`` of ``A`` has the count of each token in text ``i``,
    divided by the square root of its number of tokens. Only the direction of a sum
    matters to a cosine; its length is modelled as that of a sum of independent vectors,
    which fits long texts better than a mean. A token that no text contains keeps its
    vector of ``prior``.

    Parameters
    ----------
    texts : RaggedRows
        Tokens of the texts, as rows of ``prior``; none is negative.
    targets : ndarray of shape (n_texts, dim), float16 or float32
        Target vector of each text, possibly memory-mapped.
    prior : ndarray of shape (n_tokens, dim), float32
        Vectors toward which the ridge penalty shrinks, at which the iterations start.
    penalties : ndarray of shape (n_tokens,), float32, not negative
        Ridge penalty of each token.
    n_iter : int
        Number of iterations of conjugate gradients, with Jacobi preconditioning.
    n_tokens : ndarray of shape (n_texts,), int, or None, default=None
        Number of tokens of each text without its phrases, which have rows, too. None
        counts the rows.
    weights : ndarray of shape (n_texts,), float32, or None, default=None
        Weight of each text, such as the number of its duplicates. None weighs all
        equally.
    n_threads : int or None, default=1
        Number of threads, which does not change the result; None is one for each
        processor.
    progress : callable (int) or None, default=None
        Called with a number of finished iterations of all columns.

    Returns
    -------
    ndarray of shape (n_tokens, dim), float32

    References
    ----------
    Hestenes & Stiefel (1952), "Methods of conjugate gradients for solving linear
    systems"; Golub & Van Loan (2013), "Matrix computations", algorithm 11.5.1.
    """
    if weights is None:
        weights = np.ones(len(targets), np.float32)
    divisors = np.maximum(np.diff(texts.offsets) if n_tokens is None else n_tokens, 1)
    scales = Scales(
        (weights / divisors).astype(np.float32),
        (weights / np.sqrt(divisors)).astype(np.float32),
    )
    texts = sorted_tokens(texts)
    diagonal = penalties.astype(np.float64)
    add_squares(*texts, scales.counts, diagonal)
    scale = np.zeros(len(prior), np.float32)
    # Without penalty, tokens of no text have a diagonal of 0, and keep their prior.
    scale[diagonal > 0] = 1 / diagonal[diagonal > 0]
    out = np.empty_like(prior)

    def solve(columns: tuple[int, int]) -> None:
        tile = slice(*columns)
        start = prior[:, tile].copy()
        residual = _residual(texts, targets, tile, scales, start)
        out[:, tile] = _conjugate_gradients(
            *(texts, scales.counts, residual, start, scale[:, None]),
            penalties=penalties[:, None],
            n_iter=n_iter,
        )
        if progress is not None:
            progress(columns[1] - columns[0])

    tiles = list(chunks(prior.shape[1], TILE))
    map_threads(tiles, lambda: solve, resolve_n_threads(n_threads))
    return out


class Scales(NamedTuple):
    """Factor of each text in products with the matrix of counts.

    Attributes
    ----------
    counts : ndarray of shape (n_texts,), float32
        In the product of the matrix with itself.
    targets : ndarray of shape (n_texts,), float32
        In its product with the targets.
    """

    counts: NDArray[np.float32]
    targets: NDArray[np.float32]


def sorted_tokens(texts: RaggedRows) -> RaggedRows:
    """The same texts, with the tokens of each in ascending order."""
    lengths = np.diff(texts.offsets)
    text_of = np.repeat(np.arange(len(lengths)), lengths)
    return RaggedRows(texts.rows[np.lexsort((texts.rows, text_of))], texts.offsets)


def _residual(
    texts: RaggedRows,
    targets: NDArray[np.floating],
    tile: slice,
    scales: Scales,
    start: Float32,
) -> Float32:
    """Gradient at the prior: ``A.T @ diag(weights) @ (targets - A @ start)``."""
    residual = np.zeros_like(start)
    add_normal_product(*texts, scales.counts, start, residual)
    np.negative(residual, out=residual)
    for first, stop in chunks(len(targets), BLOCK):
        block = np.ascontiguousarray(targets[first:stop, tile], np.float32)
        add_transposed_product(*texts, scales.targets, first, block, residual)
    return residual


def _conjugate_gradients(
    texts: RaggedRows,
    scales: NDArray[np.float32],
    residual: Float32,
    solution: Float32,
    scale: Float32,
    *,
    penalties: Float32,
    n_iter: int,
) -> Float32:
    """Solve for the columns of a tile, each with step sizes of its own."""
    preconditioned = scale * residual
    direction = preconditioned.copy()
    size = _column_products(residual, preconditioned)
    enough = size * CONVERGED
    for _ in range(n_iter):
        product = penalties * direction
        add_normal_product(*texts, scales, direction, product)
        # Further steps would follow rounding errors, which grow if alpha is 0.
        size[size <= enough] = 0
        step = _ratio(size, _column_products(direction, product))
        solution += step * direction
        residual -= step * product
        preconditioned = scale * residual
        previous, size = size, _column_products(residual, preconditioned)
        direction *= _ratio(size, previous)
        direction += preconditioned
    return solution


def _column_products(a: Float32, b: Float32) -> NDArray[np.float64]:
    products: NDArray[np.float64] = np.einsum("ij,ij->j", a, b, dtype=np.float64)
    return products


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> Float32:
    """Quotient, or 0 where the residual of a column is zero."""
    ratio = np.zeros(a.shape, np.float32)
    np.divide(a, b, out=ratio, where=b > 0, casting="same_kind")
    return ratio
