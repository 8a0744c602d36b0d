"""Exact near-duplicates of vectors by a threshold of their cosine."""

from __future__ import annotations

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


class NearDuplicates(NamedTuple):
    """Which rows are kept, and the row that represents each of the others.

    Attributes
    ----------
    representatives : ndarray of shape (n,), int64
        The row itself if it is kept, else the kept row of the lowest index whose cosine
        with it is at least the threshold.
    cosines : ndarray of shape (n,), float64
        Cosine with the representative; 1 for kept rows.
    """

    representatives: Counts
    cosines: Float64

    @property
    def keep(self) -> NDArray[np.bool_]:
        """Mask of the kept rows, of shape (n,)."""
        return np.asarray(self.representatives == np.arange(len(self.representatives)))

    def groups(self) -> list[Counts]:
        """Rows of each group of at least two, the kept row first."""
        order = np.argsort(self.representatives, kind="stable")
        _, starts = np.unique(self.representatives[order], return_index=True)
        return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]


def near_duplicates(
    vectors: ArrayLike,
    threshold: float = 0.9,
    *,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> NearDuplicates:
    """Find rows that are similar to an earlier row that is kept.

    Rows are taken in order. A row is kept unless its cosine with a row that is kept
    already reaches the threshold. So every dropped row has a cosine of at least
    ``threshold`` with its representative, and any two kept rows have a lower one.

    Parameters
    ----------
    vectors : array-like of shape (n, dim)
        Vectors, one per row, which may be memory-mapped: floats, integers such as int8,
        or packed sign bits as uint8.
    threshold : float, default=0.9
        Smallest cosine of near-duplicates, above 0 and at most 1.
    n_jobs : int or None, default=None
        Number of threads; None is 1, -1 all processors. The result does not depend on
        it.
    progress : callable (int) or None, default=None
        Called with the number of pairs of rows that were compared or ruled out since
        the last call; there are ``n * (n - 1) // 2``.

    Returns
    -------
    NearDuplicates
        Kept rows, and the representative of each of the others.

    Raises
    ------
    ValueError
        If the threshold is out of range, or a vector is not finite.

    See Also
    --------
    paraphrase_mining : The most similar pairs of rows.

    Notes
    -----
    The result is exact: no pair is missed, and cosines are compared with the threshold
    as `paired_cosines` computes them. Most pairs are ruled out by the leading principal
    axes alone, with the Cauchy-Schwarz inequality for the others; a threshold near the
    cosines of unrelated texts makes this slower, up to the full matrix product. A zero
    vector is no near-duplicate of any other. Memory is about ``4 * n * (n_axes + 8)``
    bytes, with a number of axes chosen by a sample, often 32 or 48.

    To cluster vectors instead, use scikit-learn, e.g. ``AgglomerativeClustering``.

    Examples
    --------
    >>> found = near_duplicates([[1, 0], [0, 1], [9, 1], [0, 0]], threshold=0.9)
    >>> found.keep
    array([ True,  True, False,  True])
    >>> found.groups()
    [array([0, 2])]
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            f"threshold must be above 0 and at most 1, found {threshold!r}"
        )
    n_threads, rows = resolve_n_jobs(n_jobs), UnitRows(vectors)
    n = len(rows)
    representatives = np.arange(n)
    if n:
        with one_blas_thread():
            bounded = BoundedRows(rows, Sample(rows), threshold)
            _drop(bounded, threshold, representatives, n_threads, progress)
    cosines = np.ones(n)
    dropped = np.flatnonzero(representatives != np.arange(n))
    cosines[dropped] = rows.cosines(dropped, rows, representatives[dropped])
    return NearDuplicates(representatives, cosines)


def _drop(
    bounded: BoundedRows,
    threshold: float,
    representatives: Counts,
    n_threads: int,
    progress: Progress | None,
) -> None:
    """Write the representatives of rows that are dropped, block by block."""
    n = len(representatives)
    kept, n_kept = np.empty(n, np.int64), 0
    for start, stop in chunks(n, TILE):
        block = np.arange(start, stop)

        def earliest() -> Callable[[tuple[int, int]], Counts]:
            buffer: Float32 = np.empty(BUFFER, np.float32)

            def search(span: tuple[int, int]) -> Counts:
                rows = kept[span[0] : span[1]]
                return _earliest(bounded, block, rows, threshold, buffer)  # noqa: B023

            return search

        found = map_threads(list(chunks(n_kept, TILE)), earliest, n_threads)
        lowest = np.min([block, *found], axis=0)
        representatives[block] = lowest
        rest = block[lowest == block]
        buffer = np.empty(BUFFER, np.float32)
        pairs = bounded.pairs(rest, rest, threshold, buffer)
        _drop_within(pairs.first, pairs.second, representatives)
        rest = rest[representatives[rest] == rest]
        kept[n_kept : n_kept + len(rest)] = rest
        n_kept += len(rest)
        if progress is not None:
            progress((stop * (stop - 1) - start * (start - 1)) // 2)


def _earliest(
    bounded: BoundedRows,
    block: Counts,
    kept: Counts,
    threshold: float,
    buffer: Float32,
) -> Counts:
    """Lowest kept row that each row of a block is similar to; else the row itself."""
    lowest = block.copy()
    pairs = bounded.pairs(block, kept, threshold, buffer)
    np.minimum.at(lowest, pairs.first - block[0], pairs.second)
    return lowest


def _drop_within(first: Counts, second: Counts, representatives: Counts) -> None:
    """Drop rows of a block that are similar to an earlier row of the block."""
    is_later = second > first
    first, second = first[is_later], second[is_later]
    owners, starts = np.unique(first, return_index=True)
    stops = [*starts, len(first)][1:]
    for owner, start, stop in zip(owners, starts, stops, strict=True):
        if representatives[owner] == owner:
            later = second[start:stop]
            free = later[representatives[later] == later]
            representatives[free] = owner
