# mypy: disable-error-code="no-untyped-def"
"""Members put in order, element by element: minimum, maximum, median."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Array
from ensembles.dtypes import FLOATS
from ensembles.kernels.jit import LANE, compiled


def ranked(stack: Array, first: int, last: int) -> Array:
    """Members of rank ``first`` to ``last``, element by element, smallest first.

    -0 comes before 0. Where a member is NaN, so is every rank.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
    first, last : int
        0 is the smallest, the last one counts.

    Returns
    -------
    ndarray of shape (last - first + 1, size), dtype of ``stack``
    """
    form = FLOATS[stack.dtype]
    signed = np.dtype(f"i{form.dtype.itemsize}")
    out = np.empty((last - first + 1, stack.shape[1]), stack.dtype)
    pairs = _network(len(stack), first, last)
    largest, most = signed.type(form.largest), signed.type(np.iinfo(signed).max)
    bits, found = stack.view(signed), out.view(signed)
    if _ranked(bits, pairs, largest, ~largest, most, first, found):
        out[:, _any_nan(stack)] = np.nan
    return out


def ranked_line(stack: Array, first: int, last: int) -> Array:
    """Numpy line of `ranked`: the same by a sort of the bits.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
    first, last : int

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
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return np.asarray(np.isnan(stack).any(0))


def _flipped(bits: Array) -> Array:
    """Integers in the order of the floats whose bits these are, and back again."""
    most = np.iinfo(bits.dtype).max
    return np.asarray(bits ^ ((bits >> np.iinfo(bits.dtype).bits - 1) & most))


@lru_cache(maxsize=64)
def _network(n_members: int, first: int, last: int) -> NDArray[np.int64]:
    """Pairs to put in order, one after the other, until the asked ranks are right.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2,
    algorithm M), without the comparisons that no asked rank depends on.
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
def _flip(row, key, most):
    for j in range(row.size):  # a choice, not a shift: shifts are widened to 64 bits
        key[j] = row[j] ^ most if row[j] < 0 else row[j]


@compiled
def _beyond(key, largest, least):
    found = False
    for j in range(key.size):
        found |= key[j] > largest
        found |= key[j] < least
    return found


@compiled
def _ranked(stack, pairs, largest, least, most, first, out):
    """Fill ``out``; whether a NaN was met."""
    n_members, size = stack.shape
    keys = np.empty((n_members, LANE), stack.dtype)
    found = False
    for start in range(0, size, LANE):
        stop = min(start + LANE, size)
        for i in range(n_members):
            key = keys[i, : stop - start]
            _flip(stack[i, start:stop], key, most)
            found |= _beyond(key, largest, least)
        for k in range(len(pairs)):
            low, high = keys[pairs[k, 0]], keys[pairs[k, 1]]
            _exchange(low[: stop - start], high[: stop - start])
        for i in range(len(out)):
            _flip(keys[first + i, : stop - start], out[i, start:stop], most)
    return found


@compiled
def _is_before(x, y):
    """Whether x ranks below y, as -0 does below 0."""
    return x < y or (x == y and np.signbit(x) > np.signbit(y))


@compiled
def weighted_median(stack, weights, out):
    """Where half of the weight lies below, element by element, in float64.

    The members are sorted; the value at which the sum of weights first exceeds half
    of all is the median, and where it is half, the mean of that value and the next.
    Half is meant up to rounding: 0.1 and 0.2 are half of 0.1, 0.2 and 0.3 in whatever
    order they are added.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
    weights : ndarray of shape (n_members,), positive
    out : ndarray of shape (size,), float64
    """
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
