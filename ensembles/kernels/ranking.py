# mypy: disable-error-code="no-untyped-def"
"""Ranks of magnitudes in rows, by counting them in the precision of bfloat16."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64
from ensembles.kernels.jit import compiled, use_loops

CUT = 45  # bits of a float64 that are cut off, which leaves 8 significant ones
UNSIGNED = 0x7FFF_FFFF_FFFF_FFFF  # mask of all bits but the sign


def magnitude_ranks(rows: Float64) -> Float64:
    """Ranks of the magnitudes in each row, from 0 for the smallest.

    Magnitudes are truncated to 8 significant bits, and equal ones share the mean of
    their ranks. NaN ranks above infinity.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, row_size), float64
        Rows.

    Returns
    -------
    ndarray of shape (n_rows, row_size)
    """
    out = np.empty(rows.shape)
    if use_loops(8 * rows.size):
        _magnitude_ranks(rows, out)
        return out
    for row, ranks in zip((rows.view(np.int64) & UNSIGNED) >> CUT, out, strict=True):
        _, index, n_equal = np.unique(row, return_inverse=True, return_counts=True)
        ranks[:] = (np.cumsum(n_equal) - (n_equal + 1) / 2)[index]
    return out


@compiled
def _magnitude_ranks(rows, out):
    bins = np.empty(rows.shape[1], np.uint32)
    for i in range(len(rows)):
        rank_row(rows[i], bins, out[i])


@compiled
def rank_row(row, bins, out):
    """Write the ranks of a row; ``bins`` is scratch space of its size."""
    smallest, n_bins = _find_bins(row, bins)
    doubled = np.zeros(n_bins, np.int64)
    for j in range(row.size):
        doubled[bins[j] - smallest] += 1
    _double_ranks(doubled)
    for j in range(row.size):
        out[j] = 0.5 * doubled[bins[j] - smallest]


@compiled
def _find_bins(row, bins):
    """Write truncated magnitudes; return a number subtracted from them, and a range.

    Zeros become the number below the smallest other magnitude.
    """
    bits = row.view(np.uint64)
    cut, unsigned = np.uint64(CUT), np.uint64(UNSIGNED)
    largest, smallest, one = np.uint32(0), np.uint32(0xFFFFFFFF), np.uint32(1)
    for j in range(row.size):
        size = np.uint32((bits[j] & unsigned) >> cut)
        bins[j] = size
        largest = size if size > largest else largest
        below = np.uint32(size - one)  # zeros wrap around
        smallest = below if below < smallest else smallest
    smallest = np.uint32(min(smallest, largest))
    for j in range(row.size):
        bins[j] = bins[j] if bins[j] > smallest else smallest
    return smallest, np.int64(largest) - np.int64(smallest) + 1


@compiled
def _double_ranks(counts):
    """Replace the numbers of magnitudes in bins by twice the mean of their ranks."""
    start = 0
    for k in range(counts.size):
        count = counts[k]
        counts[k] = 2 * start + count - 1
        start += count
