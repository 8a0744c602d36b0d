# mypy: disable-error-code="no-untyped-def"
"""Entries in which members differ most: their variances, squares and signed sums."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.casting import widen
from ensembles.kernels.gram import BLOCK, SUMS, add_products, difference_squares
from ensembles.kernels.jit import compiled, use_loops
from ensembles.kernels.task_vectors.stored_members import (
    SPAN,
    as_read,
    is_read,
    merge_stored,
    read_lane,
    write_lane,
)
from ensembles.parallel import chunks

EPS = 2.0**-52


def variances(stack: Array, start: int = 0, stop: int | None = None) -> Float64:
    """Variance of each entry over the members, zero only if all are equal.

    The mean square of the differences of all pairs, which do not cancel.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    start, stop : int, default=0, None
        Bounds of the entries; None is the end.

    Returns
    -------
    ndarray of shape (stop - start,), float64
    """
    part = stack[:, start:stop]
    out = np.zeros(part.shape[1])
    if use_loops(part.size * len(stack)):
        if is_read(stack.dtype):  # all of it, because a part has strides
            _variances(as_read(stack), start, out)
        else:
            _variances(widen(part), 0, out)
        return out
    wide = widen(part)
    for first, row in enumerate(wide):
        for other in wide[first + 1 :]:
            difference = row - other
            out += difference * difference
    return np.asarray(out / max(len(stack) ** 2, 1))


def selected_squares(stack: Array, base: Array, threshold: float) -> Float64:
    """Partial sums of squares of the members' selected differences from a base.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    threshold : float, not negative
        Smallest variance of an entry that is selected.

    Returns
    -------
    ndarray of shape (ceil(size / 65536), n_members), float64
        Sums of blocks of 65,536 elements, as from `difference_squares`.
    """
    out = np.zeros((-(-base.size // BLOCK), len(stack)))
    if use_loops(4 * stack.size) and is_read(base.dtype):
        _selected_squares(as_read(stack), as_read(base), threshold, out)
        out[np.isnan(out)] = np.nan
        return out
    for index, (start, stop) in enumerate(chunks(base.size, BLOCK)):
        members, origin = widen(stack[:, start:stop]), widen(base[None, start:stop])[0]
        out[index] = difference_squares(_selected(members, origin, threshold), origin)
    return out


def merge_selected(
    stack: Array,
    base: Array,
    coefficients: Float64,
    threshold: float,
    *,
    normalize: bool,
) -> Array:
    """Base plus the weighted selected changes with the sign of the sum of changes.

    A sum that is zero up to the rounding of its terms, within ``n_members * 2**-52``
    of their magnitudes, is positive, so that the order of the members is irrelevant.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    coefficients : ndarray of shape (n_members,), not negative
        Factor of each member's changes.
    threshold : float, not negative
        Smallest variance of an entry that is selected; others stay as in the base.
    normalize : bool
        Whether the sum is divided by the coefficients of the members that have the sign
        at an entry.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``
        NaN where a change is NaN.
    """
    slack = len(stack) * EPS

    def loop(stack: Array, base: Array, start: int, out: Array) -> None:
        _merge_selected(stack, base, coefficients, threshold, normalize, slack, out)

    def reference(stack: Array, base: Array, start: int, out: Array) -> None:
        totals, sizes, sums, shares = np.zeros((4, base.size))
        deltas = _selected(stack, base, threshold) - base
        for delta in deltas:
            totals += delta
            sizes += np.abs(delta)
        sign = np.where(totals >= -slack * sizes, 1.0, -1.0)
        for delta, coefficient in zip(deltas, coefficients, strict=True):
            is_counted = sign * delta > 0
            sums += np.where(is_counted, coefficient * delta, 0.0)
            shares += np.where(is_counted, coefficient, 0.0)
        if normalize:
            sums /= np.where(shares == 0, 1.0, shares)
        out[:] = np.where(np.isnan(totals), np.nan, base + sums)

    return merge_stored(loop, reference, stack, base)


def _selected(stack: Float64, base: Float64, threshold: float) -> Float64:
    """Members that equal the base where they differ too little."""
    if threshold > 0:
        stack = np.where(variances(stack) < threshold, base, stack)
    return stack


@compiled
def _variances(stack, first, out):
    rows = np.empty((len(stack), SPAN))
    for start in range(0, out.size, SPAN):
        stop = min(start + SPAN, out.size)
        for i in range(len(stack)):
            read_lane(stack[i, first + start : first + stop], rows[i])
        _fill_variances(rows, out[start:stop])


@compiled
def _fill_variances(rows, out):
    out[:] = 0.0
    for first in range(len(rows)):
        for second in range(first + 1, len(rows)):
            row, other = rows[first], rows[second]
            for j in range(out.size):
                difference = row[j] - other[j]
                out[j] += difference * difference
    divisor = np.float64(max(len(rows) ** 2, 1))
    for j in range(out.size):
        out[j] /= divisor


@compiled
def _read_selected(stack, base, start, stop, threshold, deltas, origin):
    """Read a span of the base and of the differences from it, 0 if not selected."""
    read_lane(base[start:stop], origin)
    for i in range(len(stack)):
        read_lane(stack[i, start:stop], deltas[i])
    if threshold > 0:
        spreads = np.empty(stop - start)
        _fill_variances(deltas, spreads)
        for i in range(len(stack)):
            _subtract_selected(deltas[i], origin, spreads, threshold)
    else:
        for i in range(len(stack)):
            _subtract(deltas[i, : stop - start], origin)


@compiled
def _subtract_selected(row, origin, spreads, threshold):
    for j in range(spreads.size):
        value, base = row[j], origin[j]  # loads in a branch are not vectorized
        row[j] = (base if spreads[j] < threshold else value) - base


@compiled
def _subtract(row, origin):
    for j in range(row.size):
        row[j] -= origin[j]


@compiled
def _selected_squares(stack, base, threshold, out):
    deltas, origin = np.empty((len(stack), SPAN)), np.empty(SPAN)
    for index in range(len(out)):
        sums = np.zeros((len(stack), SUMS))
        last = min((index + 1) * BLOCK, base.size)
        for start in range(index * BLOCK, last, SPAN):
            stop = min(start + SPAN, last)
            _read_selected(stack, base, start, stop, threshold, deltas, origin)
            for i in range(len(stack)):
                deltas[i, stop - start :] = 0.0
                add_products(deltas[i], deltas[i], sums[i])
        for i in range(len(stack)):
            for k in range(SUMS):
                out[index, i] += sums[i, k]


@compiled
def _merge_selected(stack, base, coefficients, threshold, normalize, slack, out):
    deltas, lanes = np.empty((len(stack), SPAN)), np.empty((5, SPAN))
    words = np.empty(SPAN, np.uint32)
    origin, signs, sizes = lanes[0], lanes[1], lanes[2]
    sums, shares = lanes[3], lanes[4]
    for start in range(0, out.size, SPAN):
        stop = min(start + SPAN, out.size)
        _read_selected(stack, base, start, stop, threshold, deltas, origin)
        lanes[1:] = 0.0
        for i in range(len(stack)):
            _add_sizes(deltas[i, : stop - start], signs, sizes)
        _elect(signs, sizes, slack)
        for i in range(len(stack)):
            row = deltas[i, : stop - start]
            _add_counted(row, coefficients[i], signs, sums, shares)
        _add_to_base(origin, signs, shares, normalize, sums)
        write_lane(sums, words, out[start:stop])


@compiled
def _add_sizes(row, totals, sizes):
    for j in range(row.size):
        totals[j] += row[j]
        sizes[j] += abs(row[j])


@compiled
def _elect(signs, sizes, slack):
    """Replace sums by their sign; NaN stays."""
    for j in range(signs.size):
        total = signs[j]
        elected = 1.0 if total >= -slack * sizes[j] else -1.0
        signs[j] = elected if total == total else np.nan


@compiled
def _add_counted(row, coefficient, signs, sums, shares):
    for j in range(row.size):
        delta = row[j]
        is_counted = signs[j] * delta > 0
        sums[j] += coefficient * delta if is_counted else 0.0
        shares[j] += coefficient if is_counted else 0.0


@compiled
def _add_to_base(origin, signs, shares, normalize, sums):
    if normalize:
        for j in range(sums.size):
            share = shares[j]
            shares[j] = share if share != 0.0 else 1.0
        np.divide(sums, shares, sums)  # unlike /, it is vectorized
    for j in range(sums.size):
        value = origin[j] + sums[j]
        sums[j] = value if signs[j] == signs[j] else np.nan
