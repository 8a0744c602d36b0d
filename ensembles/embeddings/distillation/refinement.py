"""Stochastic gradient descent on the cosine distance of mean vectors to targets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.distillation.loops import descend_cosines
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows
from ensembles.parallel import chunks

BLOCK = 4096  # texts whose targets are read at once
RATE = 0.02  # share of the table's typical vector length that a first step may move


def refine(
    texts: RaggedRows,
    targets: NDArray[np.floating],
    table: Float32,
    *,
    n_epochs: int,
    weights: NDArray[np.float32] | None = None,
    seed: int = 0,
    rate: float = RATE,
    progress: Callable[[int], None] | None = None,
) -> Float32:
    """Token vectors after passes of stochastic gradient descent on ``1 - cosine``.

    Parameters
    ----------
    texts : RaggedRows
        Tokens of the texts, as rows of ``table``; none is negative.
    targets : ndarray of shape (n_texts, dim), float16 or float32
        Target vector of each text, possibly memory-mapped.
    table : ndarray of shape (n_tokens, dim), float32
        Vector of each token to start from; it does not change.
    n_epochs : int
        Number of passes over the texts.
    weights : ndarray of shape (n_texts,), float32, or None, default=None
        Weight of each text. None weighs all equally.
    seed : int, default=0
        Seed of the order of the texts.
    rate : float, default=0.02
        Step size: the distance that a row moves at its first step, in units of the root
        mean square length of the rows. It decays linearly to zero.
    progress : callable (int) or None, default=None
        Called with a number of finished texts.

    Returns
    -------
    ndarray of shape (n_tokens, dim), float32

    References
    ----------
    Duchi, Hazan & Singer (2011), "Adaptive subgradient methods for online learning and
    stochastic optimization", JMLR 12; here with one sum of squares for each row.
    """
    rng = np.random.default_rng(seed)
    table = table.copy()
    squares = np.zeros(len(table), np.float64)
    n_texts, n_done = len(targets), 0
    if weights is None:
        weights = np.ones(n_texts, np.float32)
    used = np.unique(texts.rows)
    length = np.sqrt(np.mean(np.square(table[used], dtype=np.float64).sum(axis=1)))
    for _ in range(n_epochs):
        order = rng.permutation(n_texts)
        for start, stop in chunks(n_texts, BLOCK):
            block = order[start:stop]
            # In ascending order, memory-mapped rows are read much faster.
            ascending = np.argsort(block)
            rows = np.empty((len(block), table.shape[1]), np.float32)
            rows[ascending] = targets[block[ascending]]
            decay = 1 - n_done / (n_epochs * n_texts)
            descend_cosines(
                *(texts.rows, texts.offsets, weights, block, rows),
                *(rate * length * decay, table, squares),
            )
            n_done += len(block)
            if progress is not None:
                progress(len(block))
    return table
