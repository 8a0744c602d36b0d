"""The most similar pairs of rows, exactly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensembles._typing import Counts, Float32, Float64
from ensembles.embeddings.similarity.bounds import (
    BUFFER,
    TILE,
    BoundedRows,
    Sample,
    resolve_n_jobs,
)
from ensembles.embeddings.similarity.search import Progress
from ensembles.embeddings.similarity.unit_rows import UnitRows, one_blas_thread
from ensembles.parallel import chunks, map_threads

INFLATION = 1e-9  # above the rounding error of a cosine in float64


class SimilarPairs(NamedTuple):
    """Pairs of rows, by descending cosine.

    Attributes
    ----------
    first : ndarray of shape (n_pairs,), int64
        Row of the first vector of each pair, the lower of both.
    second : ndarray of shape (n_pairs,), int64
        Row of the second vector.
    cosines : ndarray of shape (n_pairs,), float64
        Cosine similarity of each pair.
    """

    first: Counts
    second: Counts
    cosines: Float64

    def best(self, n_pairs: int) -> SimilarPairs:
        """The pairs of the highest cosines, in order; ties by the rows."""
        order = np.lexsort((self.second, self.first, -self.cosines))[:n_pairs]
        return SimilarPairs(self.first[order], self.second[order], self.cosines[order])


def paraphrase_mining(
    vectors: ArrayLike,
    *,
    threshold: float = -1.0,
    max_pairs: int = 100_000,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> SimilarPairs:
    """Find the pairs of rows with the highest cosine similarity.

    Parameters
    ----------
    vectors : array-like of shape (n, dim)
        Vectors, one per row, which may be memory-mapped: floats, integers such as int8,
        or packed sign bits as uint8.
    threshold : float, default=-1.0
        Smallest cosine of a pair.
    max_pairs : int, default=100000
        Largest number of pairs.
    n_jobs : int or None, default=None
        Number of threads; None is 1, -1 all processors. The result does not depend on
        it.
    progress : callable (int) or None, default=None
        Called with the number of pairs that were compared or ruled out since the last
        call; there are ``n * (n - 1) // 2``.

    Returns
    -------
    SimilarPairs
        Pairs with ``first < second``, by descending cosine, ties by the rows.

    Raises
    ------
    ValueError
        If a parameter is out of range, or a vector is not finite.

    See Also
    --------
    near_duplicates : Rows to keep so that no two are similar.

    Notes
    -----
    The result is exact, as in `near_duplicates`, and cosines are those of
    `paired_cosines`. Fewer pairs, or a higher threshold, take less time.

    Examples
    --------
    >>> found = paraphrase_mining([[1, 0], [0, 1], [9, 1]], max_pairs=2)
    >>> found.first, found.second
    (array([0, 1]), array([2, 2]))
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be from -1 to 1, found {threshold!r}")
    if not isinstance(max_pairs, int | np.integer) or max_pairs < 1:
        raise ValueError(f"max_pairs must be a positive int, found {max_pairs!r}")
    n_threads, rows = resolve_n_jobs(n_jobs), UnitRows(vectors)
    if not len(rows):
        return SimilarPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    with one_blas_thread():
        sample = Sample(rows)
        best = BestPairs(rows, max_pairs, threshold)
        best.raise_threshold(sample.cosines)
        bounded = BoundedRows(rows, sample, expected_threshold(sample, best))
        spans = list(chunks(len(rows), TILE))
        tiles = [(a, b) for i, a in enumerate(spans) for b in spans[i:]]

        def start() -> Callable[[tuple[tuple[int, int], tuple[int, int]]], None]:
            buffer: Float32 = np.empty(BUFFER, np.float32)

            def search(tile: tuple[tuple[int, int], tuple[int, int]]) -> None:
                first, second = (np.arange(*span) for span in tile)
                pairs = bounded.pairs(first, second, best.threshold, buffer)
                is_upper = pairs.first < pairs.second
                best.add(pairs.first[is_upper], pairs.second[is_upper])
                if progress is not None:
                    n_rows, n_columns = len(first), len(second)
                    is_square = tile[0] == tile[1]
                    progress(
                        n_rows * (n_rows - 1) // 2 if is_square else n_rows * n_columns
                    )

            return search

        map_threads(tiles, start, n_threads)
    return best.result()


def expected_threshold(sample: Sample, best: BestPairs) -> float:
    """Cosine of the last of the best pairs, as estimated from a sample."""
    n = len(best.rows)
    share = best.n_pairs / max(1, n * (n - 1) // 2)
    if share >= 1 or not len(sample.cosines):
        return best.threshold
    return max(best.threshold, float(np.quantile(sample.cosines, 1 - share)))


class BestPairs:
    """Running best pairs; threads add to them.

    Parameters
    ----------
    rows : UnitRows
        Vectors.
    n_pairs : int
        Number of pairs to keep.
    threshold : float
        Smallest cosine of a pair.

    Attributes
    ----------
    threshold : float
        Cosine that a further pair must reach; it rises.
    """

    def __init__(self, rows: UnitRows, n_pairs: int, threshold: float) -> None:
        self.rows, self.n_pairs, self.threshold = rows, int(n_pairs), float(threshold)
        self._lock, self._n_added = threading.Lock(), 0
        self._parts: list[SimilarPairs] = []

    def raise_threshold(self, cosines: NDArray[np.float64]) -> None:
        """Raise the threshold by the cosines of any set of different pairs."""
        if len(cosines) >= self.n_pairs:
            lowest = float(np.partition(cosines, -self.n_pairs)[-self.n_pairs])
            self.threshold = max(self.threshold, lowest - INFLATION)

    def add(self, first: Counts, second: Counts) -> None:
        """Add pairs, and keep only the best."""
        cosines = self.rows.cosines(first, self.rows, second)
        with self._lock:
            self._parts.append(SimilarPairs(first, second, cosines))
            self._n_added += len(cosines)
            if self._n_added > 2 * self.n_pairs:
                best = self._best()
                self._parts, self._n_added = [best], len(best.cosines)
                self.raise_threshold(best.cosines)

    def _best(self) -> SimilarPairs:
        columns = zip(*self._parts, strict=True)
        return SimilarPairs(*map(np.concatenate, columns)).best(self.n_pairs)

    def result(self) -> SimilarPairs:
        """The best pairs, in order."""
        return self._best()
