# mypy: disable-error-code="no-untyped-def"
"""Order statistics of members: minimum, maximum, median; and ranks in rows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.jit import LANE, PIECE, compiled, use_loops
from ensembles.parallel import chunks


def order_statistics(stack: Array, first: int, last: int) -> Array:
    """Elementwise order statistics of ranks ``first`` to ``last``, smallest first.

    -0 ranks below 0. If a member is NaN, all ranks of this element are NaN.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    first, last : int
        Range of ranks, both included; 0 is the smallest.

    Returns
    -------
    ndarray of shape (last - first + 1, size), dtype of ``stack``
    """
    out = np.empty((last - first + 1, stack.shape[1]), stack.dtype)
    if not use_loops(2 * stack.size):
        for start, stop in chunks(stack.shape[1], PIECE):
            piece = stack[:, start:stop]
            out[:, start:stop] = order_statistics_reference(piece, first, last)
        return out
    form = FLOATS[stack.dtype]
    signed = np.dtype(f"i{form.dtype.itemsize}")
    pairs = _network(len(stack), first, last)
    largest, max_int = signed.type(form.largest), signed.type(np.iinfo(signed).max)
    bits, out_bits = stack.view(signed), out.view(signed)
    if _order_statistics(bits, pairs, largest, ~largest, max_int, first, out_bits):
        out[:, _any_nan(stack)] = np.nan
    return out


def order_statistics_reference(stack: Array, first: int, last: int) -> Array:
    """NumPy reference of `order_statistics`, which sorts the bits.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    first, last : int
        Range of ranks, both included; 0 is the smallest.

    Returns
    -------
    ndarray of shape (last - first + 1, size), dtype of ``stack``
    """
    signed = np.dtype(f"i{stack.dtype.itemsize}")
    keys = _flipped(stack.view(signed))
    out = _flipped(np.sort(keys, axis=0)[first : last + 1]).view(stack.dtype)
    out[:, _any_nan(stack)] = np.nan
    return out


def _any_nan(stack: Array) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):  # signaling NaN
        return np.asarray(np.isnan(stack).any(0))


def _flipped(bits: Array) -> Array:
    """Integers that sort like the floats with these bits; its own inverse."""
    max_int = np.iinfo(bits.dtype).max
    return np.asarray(bits ^ ((bits >> np.iinfo(bits.dtype).bits - 1) & max_int))


@lru_cache(maxsize=64)
def _network(n_members: int, first: int, last: int) -> NDArray[np.int64]:
    """Comparators of a sorting network for ranks ``first`` to ``last``, in order.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2,
    algorithm M), without the comparators that do not affect these ranks.
    """
    pairs = []
    top = 1 << max(n_members - 1, 1).bit_length() - 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n_members - d) if i & p == r]
            if q == p:
                break
            q, r, d = q >> 1, p, q - p
        p >>= 1
    needed, kept = set(range(first, last + 1)), []
    for pair in reversed(pairs):
        if needed & set(pair):
            needed |= set(pair)
            kept.append(pair)
    return np.array(kept[::-1], np.int64).reshape(-1, 2)


@compiled
def _exchange(low, high):
    for j in range(low.size):
        x, y = low[j], high[j]
        low[j], high[j] = min(x, y), max(x, y)


@compiled
def _flip(row, key, max_int):
    for j in range(row.size):  # a conditional: shifts are widened to 64 bits
        key[j] = row[j] ^ max_int if row[j] < 0 else row[j]


@compiled
def _has_nan(key, largest, smallest):
    has_nan = False
    for j in range(key.size):
        has_nan |= key[j] > largest
        has_nan |= key[j] < smallest
    return has_nan


@compiled
def _order_statistics(stack, pairs, largest, smallest, max_int, first, out):
    """Write the ranks to ``out``; return whether any member is NaN."""
    n_members, size = stack.shape
    keys = np.empty((n_members, LANE), stack.dtype)
    has_nan = False
    for start in range(0, size, LANE):
        stop = min(start + LANE, size)
        for i in range(n_members):
            key = keys[i, : stop - start]
            _flip(stack[i, start:stop], key, max_int)
            has_nan |= _has_nan(key, largest, smallest)
        for k in range(len(pairs)):
            low, high = keys[pairs[k, 0]], keys[pairs[k, 1]]
            _exchange(low[: stop - start], high[: stop - start])
        for i in range(len(out)):
            _flip(keys[first + i, : stop - start], out[i, start:stop], max_int)
    return has_nan


@compiled
def _is_before(x, y):
    """Whether x ranks below y; -0 ranks below 0."""
    return x < y or (x == y and np.signbit(x) > np.signbit(y))


def weighted_median(stack: Float64, weights: Float64, out: Float64) -> None:
    """Elementwise weighted median in float64.

    The median is the smallest value at which the cumulative weight of the sorted
    members exceeds half of the total, or the mean of a value and the next one if it is
    exactly half. The comparison allows for rounding: 0.1 and 0.2 are half of 0.1, 0.2
    and 0.3 in any order of addition.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    weights : ndarray of shape (n_members,), positive
        Weight of each member.
    out : ndarray of shape (size,), float64
        Receives the medians; NaN where a member is NaN.
    """
    if use_loops(4 * stack.size):
        _weighted_median(stack, weights, out)
    else:
        out[:] = weighted_median_reference(stack, weights)


def weighted_median_reference(stack: Float64, weights: Float64) -> Float64:
    """NumPy reference of `weighted_median`.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    weights : ndarray of shape (n_members,), positive
        Weight of each member.

    Returns
    -------
    ndarray of shape (size,)
    """
    n_members, size = stack.shape
    order = np.argsort(_flipped(stack.view(np.int64)), axis=0, kind="stable")
    # Running sums add in order; sum may add pairwise.
    total = np.add.accumulate(weights)[-1]
    slack = n_members * 2.0**-52 * total
    entries = np.broadcast_to(weights.reshape(n_members, -1), stack.shape)
    below = np.add.accumulate(np.take_along_axis(entries, order, axis=0))
    last = n_members - 1
    index = np.minimum((2 * below < total - slack).sum(axis=0), last)
    columns = np.arange(size)
    value = stack[order[index, columns], columns]
    following = stack[order[np.minimum(index + 1, last), columns], columns]
    is_half = (2 * below[index, columns] <= total + slack) & (index < last)
    with np.errstate(all="ignore"):
        value = np.where(is_half, 0.5 * value + 0.5 * following, value)
    value[_any_nan(stack)] = np.nan
    return np.asarray(value)


@compiled
def _weighted_median(stack, weights, out):
    n_members = weights.size
    total = 0.0
    for i in range(n_members):
        total += weights[i]
    slack = n_members * 2.0**-52 * total
    order = np.empty(n_members, np.int64)
    for j in range(out.size):
        missing = False
        for i in range(n_members):
            k = i
            missing |= np.isnan(stack[i, j])
            while k > 0 and _is_before(stack[i, j], stack[order[k - 1], j]):
                order[k] = order[k - 1]
                k -= 1
            order[k] = i
        below, i = weights[order[0]], 0
        while 2 * below < total - slack and i < n_members - 1:
            i += 1
            below += weights[order[i]]
        value = stack[order[i], j]
        if 2 * below <= total + slack and i < n_members - 1:
            value = 0.5 * value + 0.5 * stack[order[i + 1], j]
        out[j] = np.nan if missing else value
