"""Pairs of similar rows, found by upper bounds of their cosines."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Counts, Float32, Float64
from ensembles.embeddings.similarity.unit_rows import UnitRows, error_bound
from ensembles.parallel import chunks

TILE = 2048  # rows on each side of a job
BUFFER = 1 << 19  # bounds that a thread computes at once, 2 MiB
N_SAMPLED = 1024  # rows from which the axes and their number are chosen
STEP = 16  # numbers of axes that are tried are multiples of it
# Costs in multiply-adds of a matrix product: of comparing one bound with the threshold,
# and per column of a pair whose rows are gathered.
COMPARISON, GATHERED = 16, 40
GATHERED_PAIRS = 1 << 14
DENSE = 0.02  # share of pairs beyond which a full matrix product is cheaper
# Magnitudes whose squares and sums of squares are normal float32 numbers.
MODERATE = (1e-12, 1e12)
INFLATION = 1e-12  # above the rounding error of a squared length in float64


class Pairs(NamedTuple):
    """Pairs of rows: the row of the first and of the second vector of each."""

    first: Counts
    second: Counts


def concatenate(parts: list[Pairs]) -> Pairs:
    """Concatenate pairs."""
    empty = np.empty(0, np.int64)
    first, second = zip(Pairs(empty, empty), *parts, strict=True)
    return Pairs(np.concatenate(first), np.concatenate(second))


class Sample:
    """Sample of rows, with their principal axes and cosines.

    Parameters
    ----------
    rows : UnitRows
        Vectors; at least one.
    """

    def __init__(self, rows: UnitRows) -> None:
        n_sampled = min(N_SAMPLED, len(rows))
        # Rows at equal distances, so that the result needs no random numbers.
        selected = np.arange(n_sampled) * len(rows) // n_sampled
        self.unit = rows.checked_unit64(selected, rows.vectors[selected])
        # Not centered: a rotation keeps the cosines.
        self.axes: Float64 = np.linalg.eigh(self.unit.T @ self.unit)[1][:, ::-1]
        products = self.unit @ self.unit.T
        self.cosines: Float64 = products[np.triu_indices(n_sampled, 1)]

    def n_axes(self, threshold: float) -> int:
        """Number of axes with the lowest expected cost to find pairs."""
        dim = self.axes.shape[1]
        costs = {dim: float(dim + COMPARISON)}
        is_filled = np.asarray(self.unit.any(axis=1))
        for n_axes in range(STEP, dim, STEP):
            columns = bounding_columns(self.unit @ self.axes[:, :n_axes], is_filled)
            share = float((columns @ columns.T >= threshold).mean())
            share = min(DENSE, max(0.0, share - 1 / len(columns)))  # not of itself
            costs[n_axes] = n_axes + COMPARISON + share * GATHERED * dim
        return int(min(costs, key=lambda n_axes: costs[n_axes]))


def bounding_columns(
    projected: Float64, is_filled: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Columns on the leading axes, and the length of the rest of each unit vector."""
    squares = np.einsum("ij,ij->i", projected, projected)
    rest = np.sqrt(np.maximum(0, 1 - squares) + INFLATION) * is_filled
    return np.column_stack([projected, rest]).astype(np.float32)


class BoundedRows:
    r"""Rows on their leading principal axes, which bound the cosines of all pairs.

    For unit vectors ``x`` and ``y`` on the principal axes, with ``m`` axes kept,

    .. math::

        \cos(x, y) \le x_{:m} \cdot y_{:m} + \|x_{m:}\| \|y_{m:}\|

    by the Cauchy-Schwarz inequality; the right side is a dot product of ``m + 1``
    columns. Only pairs whose bound reaches a threshold are examined further, with all
    columns in float32, and in float64 where rounding could decide. No pair is missed.

    Parameters
    ----------
    rows : UnitRows
        Vectors, which may be memory-mapped; at least one.
    sample : Sample
        Sample of the rows, with the axes.
    threshold : float
        Cosine for which the number of axes is chosen.

    Attributes
    ----------
    columns : ndarray of shape (n, n_axes + 1), float32
        What is kept in memory of each row.
    """

    def __init__(self, rows: UnitRows, sample: Sample, threshold: float) -> None:
        n_axes = sample.n_axes(threshold)
        axes = sample.axes[:, :n_axes]
        self.rows = rows
        self.error, self.bound_error = error_bound(rows.dim), error_bound(n_axes + 1)
        self.columns: Float32 = np.empty((len(rows), n_axes + 1), np.float32)
        self.lengths: Float64 = np.ones(len(rows))
        for start, stop in chunks(len(rows), rows.block_size):
            unit = rows.unit64(start, stop)
            is_filled = np.asarray(unit.any(axis=1))
            columns = bounding_columns(unit @ axes, is_filled)
            self.columns[start:stop] = columns
            if not rows.are_bits:
                block = np.asarray(rows.vectors[start:stop], np.float64)
                self.lengths[start:stop] = np.sqrt(np.einsum("ij,ij->i", block, block))
        self.lengths[self.lengths == 0] = 1
        low, high = MODERATE
        is_moderate = (self.lengths > low) & (self.lengths < high)
        self.are_moderate = not rows.are_bits and bool(is_moderate.all())

    def pairs(
        self, first: Counts, second: Counts, threshold: float, buffer: Float32
    ) -> Pairs:
        """Pairs of a row of each set whose cosine is at least the threshold.

        Parameters
        ----------
        first, second : ndarray of int64
            Rows of each set, at most `TILE` in the second.
        threshold : float
            Smallest cosine.
        buffer : ndarray of shape (BUFFER,), float32
            Scratch space.

        Returns
        -------
        Pairs
            In the order of ``first``, then ``second``.
        """
        parts = []
        if len(second):
            columns = np.ascontiguousarray(self.columns[second].T)
            for start, stop in chunks(len(first), BUFFER // len(second)):
                part = self._pairs(
                    first[start:stop], second, columns, threshold, buffer
                )
                parts.append(part)
        return concatenate(parts)

    def _pairs(
        self,
        first: Counts,
        second: Counts,
        columns: Float32,
        threshold: float,
        buffer: Float32,
    ) -> Pairs:
        bounds = buffer[: len(first) * len(second)].reshape(len(first), len(second))
        np.matmul(self.columns[first], columns, out=bounds)
        hits = np.flatnonzero(bounds >= np.float32(threshold - self.bound_error))
        if len(hits) > DENSE * bounds.size:
            units = [self.rows.unit_of(self.rows.vectors[s]) for s in (first, second)]
            np.matmul(units[0], units[1].T, out=bounds)
            hits = np.flatnonzero(bounds >= np.float32(threshold - self.error))
            left, right = np.divmod(hits, len(second))
            pairs, cosines = Pairs(first[left], second[right]), bounds.ravel()[hits]
        else:
            left, right = np.divmod(hits, len(second))
            pairs = Pairs(first[left], second[right])
            cosines = self._float32_cosines(pairs)
        is_pair = cosines >= np.float32(threshold + self.error)
        is_unsure = ~is_pair & ~(cosines < np.float32(threshold - self.error))
        unsure = np.flatnonzero(is_unsure)
        exact = self.rows.cosines(pairs.first[unsure], self.rows, pairs.second[unsure])
        is_pair[unsure] = exact >= threshold
        return Pairs(pairs.first[is_pair], pairs.second[is_pair])

    def _float32_cosines(self, pairs: Pairs) -> NDArray[Any]:
        """Cosines with an error of at most ``self.error``; NaN where it may be more."""
        cosines = np.full(len(pairs.first), np.nan)
        if self.are_moderate:
            vectors = self.rows.vectors
            for start, stop in chunks(len(cosines), GATHERED_PAIRS):
                first, second = pairs.first[start:stop], pairs.second[start:stop]
                sides = [vectors[rows].astype(np.float32) for rows in (first, second)]
                products = np.einsum("ij,ij->i", *sides).astype(np.float64)
                lengths = self.lengths[first] * self.lengths[second]
                cosines[start:stop] = products / lengths
        return cosines


def resolve_n_jobs(n_jobs: int | None) -> int:
    """Number of threads for ``n_jobs``; None is 1, -1 all processors."""
    from joblib import effective_n_jobs

    from ensembles._sklearn import check_n_jobs

    check_n_jobs(n_jobs)
    return 1 if n_jobs is None else int(effective_n_jobs(n_jobs))
