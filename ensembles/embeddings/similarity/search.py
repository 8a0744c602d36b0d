"""Exact search for the most similar vectors, in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensembles._typing import Counts, Float32, Float64
from ensembles.embeddings.similarity.unit_rows import (
    UnitRows,
    error_bound,
    one_blas_thread,
)
from ensembles.parallel import chunks

FEW_QUERIES = 4
N_QUERIES = 256  # queries that are multiplied with a block at once
Progress = Callable[[int], object]


class SearchResult(NamedTuple):
    """The most similar documents of each query, by descending cosine.

    Attributes
    ----------
    indices : ndarray of shape (n_queries, k), int64
        Row of each document; ``k`` is at most the number of documents.
    cosines : ndarray of shape (n_queries, k), float64
        Cosine similarity of each document with the query.
    """

    indices: Counts
    cosines: Float64


def semantic_search(
    queries: ArrayLike,
    documents: Any,
    k: int = 10,
    *,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the documents with the highest cosine similarity to each query.

    Parameters
    ----------
    queries : array-like of shape (n_queries, dim)
        Vectors of the queries, one per row.
    documents : array-like of shape (n_documents, dim), or iterator of such arrays
        Vectors of the documents, e.g. memory-mapped by ``np.load(…, mmap_mode="r")``;
        they are read once, in blocks. An iterator yields them in parts, and rows are
        counted over all parts. Floats and integers such as int8 may be mixed; packed
        sign bits (uint8) need queries of packed sign bits.
    k : int, default=10
        Number of documents for each query.
    progress : callable (int) or None, default=None
        Called with the number of documents since the last call.

    Returns
    -------
    SearchResult
        Indices and cosines, both of shape (n_queries, min(k, n_documents)).

    Raises
    ------
    ValueError
        If shapes or data types do not match, a vector is not finite, or ``k`` is not
        positive.

    Notes
    -----
    The result is exact: it is the order of `paired_cosines` in float64, ties by the
    lower index. Matrix products in float32 select, with a bound on their rounding
    error, the candidates whose cosines are computed in float64. The cosine of a zero
    vector is 0. Matrix products run on the threads of NumPy's BLAS; the result does
    not depend on them.

    Examples
    --------
    >>> found = semantic_search([[1.0, 0.0]], [[0, 1], [2, 2], [3, 0], [0, 0]], k=2)
    >>> found.indices
    array([[2, 1]])
    >>> found.cosines
    array([[1.        , 0.70710678]])
    """
    asked = UnitRows(queries, "queries")
    best = BestRows(asked, k)
    parts = documents if isinstance(documents, Iterator) else iter([documents])
    # Reading the documents takes longer than few products, and threads only wait.
    threads = one_blas_thread() if len(asked) <= FEW_QUERIES else nullcontext()
    with threads:
        for part in parts:
            rows = part if isinstance(part, UnitRows) else UnitRows(part, "documents")
            best.add(rows, progress)
    return best.result()


class BestRows:
    """Running k best documents of each query.

    Parameters
    ----------
    queries : UnitRows
        Vectors of the queries.
    k : int
        Number of documents to keep for each query.
    """

    def __init__(self, queries: UnitRows, k: int) -> None:
        if not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be a positive int, found {k!r}")
        self.queries, self.k = queries, int(k)
        self.unit = queries.unit(0, len(queries))
        self.error = error_bound(queries.dim)
        self.n_documents = 0
        self.indices: Counts = np.empty((len(queries), 0), np.int64)
        self.cosines: Float64 = np.empty((len(queries), 0))

    def add(self, documents: UnitRows, progress: Progress | None = None) -> None:
        """Compare the queries with more documents."""
        self.queries.check_same_dim(documents)
        self._widen(min(self.k, self.n_documents + len(documents)))
        for start, stop in chunks(len(documents), documents.block_size):
            block = documents.unit(start, stop)
            for first, last in chunks(len(self.queries), N_QUERIES):
                mask = self._candidates(block, first, last)
                query_rows, rows = np.nonzero(mask)
                self._merge(first + query_rows, documents, start + rows)
            if progress is not None:
                progress(stop - start)
        self.n_documents += len(documents)

    def _widen(self, n_places: int) -> None:
        """Add free places, which every document precedes; k may be any number."""
        shape = (len(self.queries), n_places - self.indices.shape[1])
        if not shape[1]:
            return
        free = np.full(shape, np.iinfo(np.int64).max), np.full(shape, -np.inf)
        self.indices = np.hstack([self.indices, free[0]])
        self.cosines = np.hstack([self.cosines, free[1]])

    def _candidates(self, block: Float32, first: int, last: int) -> NDArray[np.bool_]:
        """Which documents may be among the best, of shape (n_queries, n_rows)."""
        k, products = self.indices.shape[1], self.unit[first:last] @ block.T
        worst = self.cosines[first:last, -1:]
        cuts = worst - self.error
        mask = products >= cuts
        # While places are free, the block's own k-th best document bounds the rest.
        crowded = np.flatnonzero(mask.sum(axis=1) > 2 * k + 64)
        if len(crowded):
            kth = np.partition(products[crowded], -k, axis=1)[:, -k, None]
            kth = np.maximum(cuts[crowded], kth - 2 * self.error)
            mask[crowded] = products[crowded] >= kth
        # The cosine of a zero vector is known: 0, and an earlier 0 comes first.
        maybe_zero = np.flatnonzero(products[0] == 0)
        zeros = maybe_zero[~block[maybe_zero].any(axis=1)]
        mask[:, zeros] &= worst < 0
        return np.asarray(mask)

    def _merge(self, query_rows: Counts, documents: UnitRows, rows: Counts) -> None:
        """Insert candidates that are better than the worst so far."""
        cosines = self.queries.cosines(query_rows, documents, rows)
        is_better = cosines > self.cosines[query_rows, -1]
        query_rows, cosines = query_rows[is_better], cosines[is_better]
        changed, k = np.unique(query_rows), self.indices.shape[1]
        owners = np.concatenate([np.repeat(changed, k), query_rows])
        indices = np.concatenate(
            [self.indices[changed].ravel(), self.n_documents + rows[is_better]]
        )
        cosines = np.concatenate([self.cosines[changed].ravel(), cosines])
        order = np.lexsort((indices, -cosines, owners))
        starts = np.searchsorted(owners[order], changed)
        best = order[starts[:, None] + np.arange(k)]
        self.indices[changed], self.cosines[changed] = indices[best], cosines[best]

    def result(self) -> SearchResult:
        """The best documents so far."""
        return SearchResult(self.indices, self.cosines)
