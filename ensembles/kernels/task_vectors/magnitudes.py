# mypy: disable-error-code="no-untyped-def"
"""Magnitudes of deltas at given ranks, from histograms over their bit patterns.

A delta is the difference of a member from its base. Its magnitude is truncated to 34
bits: the 11 bits of the exponent of float64 and 23 bits of the mantissa, which is the
precision of float32 with the range of float64. A histogram of the upper 17 bits finds
the bin that has a rank, and a histogram of the lower 17 bits of the magnitudes in this
bin finds the magnitude. Counts are integers, so that the order of blocks is irrelevant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.kernels.casting import widen
from ensembles.kernels.jit import compiled, use_loops
from ensembles.kernels.task_vectors.stored_members import (
    PIECE,
    as_read,
    is_read,
    read_delta,
    read_lane,
)
from ensembles.parallel import chunks

HALF = 17  # bits of a magnitude in each of the two histograms
N_BINS = 1 << HALF
WIDTH = 512  # bins that are added up first where a rank is searched
LOWER = N_BINS - 1  # mask of the lower bits of a magnitude
CUT = 63 - 2 * HALF  # bits of a float64 that are cut off
UNSIGNED = 0x7FFF_FFFF_FFFF_FFFF  # mask of all bits but the sign
INFINITY = 0x7FF << 23  # magnitude of infinity; larger ones are NaN
SPAN = 512  # elements per step


class Bins(NamedTuple):
    """Bins of the first histogram that have the ranks.

    Parameters
    ----------
    upper : ndarray of shape (n_members, n_ranks), int64
        Upper bits of the magnitude at each rank.
    ranks : ndarray of shape (n_members, n_ranks), int64
        Rank of the magnitude in its bin, 1 for the largest.
    """

    upper: Counts
    ranks: Counts


def count_upper(stack: Array, base: Array, total: Counts | None) -> Counts:
    """Add a block of deltas to the histograms of the upper bits, in place.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), of the same format
        Base of the members.
    total : ndarray of shape (n_members, 131072), int64, or None
        Histograms of the blocks before; None before the first block.

    Returns
    -------
    ndarray of shape (n_members, 131072), int64
    """
    if total is None:
        total = np.zeros((len(stack), N_BINS), np.int64)
    with_loops = use_loops(2 * stack.size)
    for members, origin in _pieces(stack, base, with_loops):
        if with_loops:
            _count_upper(as_read(members), as_read(origin), total)
            continue
        for row, counts in zip(members, total, strict=True):
            np.add.at(counts, _magnitudes(row, origin) >> HALF, 1)
    return total


def count_lower(stack: Array, base: Array, total: Counts | None, state: Bins) -> Counts:
    """Add a block of deltas to the histograms of the lower bits in bins, in place.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), of the same format
        Base of the members.
    total : ndarray of shape (n_members, n_ranks, 131072), int64, or None
        Histograms of the blocks before; None before the first block.
    state : Bins
        Return value of `find_bins`.

    Returns
    -------
    ndarray of shape (n_members, n_ranks, 131072), int64
    """
    if total is None:
        total = np.zeros((*state.upper.shape, N_BINS), np.int64)
    with_loops = use_loops(2 * stack.size)
    for members, origin in _pieces(stack, base, with_loops):
        if with_loops:
            _count_lower(as_read(members), as_read(origin), state.upper, total)
            continue
        for row, uppers, member_counts in zip(members, state.upper, total, strict=True):
            magnitudes = _magnitudes(row, origin)
            for upper, counts in zip(uppers, member_counts, strict=True):
                in_bin = magnitudes[magnitudes >> HALF == upper]
                np.add.at(counts, in_bin & LOWER, 1)
    return total


def _pieces(
    stack: Array, base: Array, with_loops: bool
) -> Iterator[tuple[Array, Array]]:
    """Pieces in float64; for loops all elements of a format that they read."""
    if with_loops and is_read(stack.dtype):
        yield stack, base
        return
    for start, stop in chunks(base.size, PIECE):
        members = np.ascontiguousarray(widen(stack[:, start:stop]))
        yield members, widen(base[None, start:stop])[0]


def find_bins(total: Counts, ranks: Counts) -> Bins:
    """Bins of histograms that have the magnitudes at ranks.

    Parameters
    ----------
    total : ndarray of shape (n_members, 131072), int64
        Histograms of all blocks, as from `count_upper`.
    ranks : ndarray of shape (n_members, n_ranks), int64
        Ranks among the magnitudes of each member, 1 for the largest.

    Returns
    -------
    Bins
    """
    found = [
        _find(counts, member_ranks)
        for counts, member_ranks in zip(total, ranks.tolist(), strict=True)
    ]
    upper, rest = np.array(found, np.int64).transpose(2, 0, 1)
    return Bins(np.ascontiguousarray(upper), rest)


def find_magnitudes(total: Counts, bins: Bins) -> Float64:
    """Truncated magnitudes at ranks.

    Parameters
    ----------
    total : ndarray of shape (n_members, n_ranks, 131072), int64
        Histograms of all blocks, as from `count_lower`.
    bins : Bins
        Return value of `find_bins`.

    Returns
    -------
    ndarray of shape (n_members, n_ranks), float64
        Largest float64 of 23 mantissa bits that is not above the magnitude at the rank;
        infinity at the rank of a NaN.
    """
    lower = [
        [_find(counts, [rank])[0][0] for counts, rank in zip(*member, strict=True)]
        for member in zip(total, bins.ranks.tolist(), strict=True)
    ]
    magnitudes = np.minimum(bins.upper << HALF | np.array(lower, np.int64), INFINITY)
    return np.asarray((magnitudes << CUT).view(np.float64))


def _find(counts: Counts, ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Bins that have ranks from the right, and the ranks in these bins."""
    rows = counts.reshape(-1, WIDTH)
    n_until = np.cumsum(rows.sum(axis=1)[::-1])
    found = []
    for rank in ranks if n_until[-1] else []:
        row, in_row = _find_in(n_until, rank)
        column, in_bin = _find_in(np.cumsum(rows[row, ::-1]), in_row)
        found.append((row * WIDTH + column, in_bin))
    return found or [(0, 0)] * len(ranks)  # no deltas


def _find_in(n_until: Counts, rank: int) -> tuple[int, int]:
    """Index from the left of a cumulative count from the right, and the rank in it."""
    index = int(np.searchsorted(n_until, rank))
    n_before = int(n_until[index - 1]) if index else 0
    return len(n_until) - 1 - index, rank - n_before


def deltas_between(
    stack: Float64, base: Float64, low: Float64, high: Float64
) -> Float64:
    """Deltas, with zeros for those whose magnitude is not in an interval.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    base : ndarray of shape (size,), float64
        Base of the members.
    low, high : ndarray of shape (n_members,)
        Smallest and largest magnitude of each member. A magnitude that equals ``high``
        up to the truncation is in the interval, and so is NaN.

    Returns
    -------
    ndarray of shape (n_members, size), float64
    """
    limit = upper_limit(high)
    if use_loops(2 * stack.size):
        deltas = np.empty(stack.shape)
        _deltas_between(stack, base, low, limit, deltas)
        return deltas
    deltas = stack - base
    sizes = np.abs(deltas)
    deltas[(sizes < low[:, None]) | (sizes >= limit[:, None])] = 0.0
    return deltas


def upper_limit(high: Float64) -> Float64:
    """Next truncated magnitudes; NaN beyond infinity, as a limit that nothing reaches.

    Parameters
    ----------
    high : ndarray of shape (n_members,)
        Largest magnitudes in the intervals of `deltas_between`.

    Returns
    -------
    ndarray of shape (n_members,)
    """
    above = high.view(np.int64) + (1 << CUT)
    return np.where(np.isfinite(high), above.view(np.float64), np.nan)


def _magnitudes(row: Float64, base: Float64) -> Counts:
    """Truncated magnitudes of deltas, 34 bits."""
    return ((row - base).view(np.int64) & UNSIGNED) >> CUT


@compiled
def _count_upper(stack, base, total):
    n_members, origin = len(stack), np.empty(SPAN)
    deltas, uppers = np.empty(SPAN), np.empty((n_members, SPAN), np.uint32)
    for start in range(0, base.size, SPAN):
        size = min(SPAN, base.size - start)
        read_lane(base[start : start + size], origin)
        for i in range(n_members):
            read_delta(stack[i, start : start + size], origin, deltas)
            _upper_bits(deltas, uppers[i])
        whole = n_members - n_members % 3
        for i in range(0, whole, 3):
            a, b, c = uppers[i, :size], uppers[i + 1, :size], uppers[i + 2, :size]
            _increment_three(a, b, c, total[i], total[i + 1], total[i + 2])
        for i in range(whole, n_members):
            _increment(uppers[i, :size], total[i])


@compiled
def _increment_three(a, b, c, counts_a, counts_b, counts_c):
    """Count in turns: equal deltas of a member wait for the same counter."""
    for j in range(a.size):
        counts_a[a[j]] += 1
        counts_b[b[j]] += 1
        counts_c[c[j]] += 1


@compiled
def _increment(row, counts):
    for j in range(row.size):
        counts[row[j]] += 1


@compiled
def _count_lower(stack, base, bins, total):
    deltas, uppers = np.empty(SPAN), np.empty(SPAN, np.uint32)
    origin = np.empty(SPAN)
    for start in range(0, base.size, SPAN):
        size = min(SPAN, base.size - start)
        read_lane(base[start : start + size], origin)
        for i in range(len(stack)):
            read_delta(stack[i, start : start + size], origin, deltas)
            _upper_bits(deltas, uppers)
            for k in range(bins.shape[1]):
                upper = np.uint32(bins[i, k])
                _increment_in_bin(deltas[:size], uppers, upper, total[i, k])


@compiled
def _increment_in_bin(deltas, uppers, upper, counts):
    bits, cut, lower = deltas.view(np.uint64), np.uint64(CUT), np.uint64(LOWER)
    for j in range(deltas.size):
        if uppers[j] == upper:  # of few, so that the loop takes a cycle per element
            counts[(bits[j] >> cut) & lower] += 1


@compiled
def _upper_bits(deltas, uppers):
    bits = deltas.view(np.uint64)
    for j in range(uppers.size):
        magnitude = bits[j] & np.uint64(UNSIGNED)
        uppers[j] = np.uint32(magnitude >> np.uint64(CUT + HALF))


@compiled
def _deltas_between(stack, base, low, limit, deltas):
    for i in range(len(stack)):
        row, part, least, most = stack[i], deltas[i], low[i], limit[i]
        for j in range(row.size):
            delta = row[j] - base[j]
            size = abs(delta)
            delta = 0.0 if size < least else delta
            part[j] = 0.0 if size >= most else delta
