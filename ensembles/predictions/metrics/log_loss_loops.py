# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loops over probabilities of what is true, for the log-loss of a mean."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled, inlined

LANES = 128  # products, or sums, that run side by side: row j belongs to j % LANES
DEPTH = 16  # factors of a product before its exponent is taken out; each above 2**-53
PIECE = LANES * DEPTH  # rows worked on together: 16 KiB in float64

# log(1 + f) = f - s (f - R(s**2)), s = f / (2 + f), for 1 + f between 1/sqrt(2) and
# sqrt(2), off by less than 2**-58: Sun's fdlibm (1993), e_log.c.
_LOW = 0.7071067811865476
_LOG_2 = 0.6931471805599453


@compiled
def gather(stack, first, last, shift, codes, shares, entries, drift, farthest, least):
    """Take what members say of the true class, and how far rows are from sum 1.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_rows, n_classes)
    first, last : int
        Rows to look at.
    shift : int
        What is known of row r, and found, has place ``shift + r``.
    codes : ndarray, int64
        The true classes.
    shares : ndarray
        What rows count.
    entries : ndarray of n_members rows
        Filled.
    drift : ndarray of shape (n_members,)
        Grows by the mean of what is beyond 1 in the sums of the rows.
    farthest : ndarray
        Filled: how far the sum of any member's row is from 1, infinite where an entry
        is negative or NaN.
    least : ndarray
        Filled: the least of the entries.
    """
    farthest[shift + first : shift + last] = 0.0
    least[shift + first : shift + last] = np.inf
    for m in range(stack.shape[0]):
        gone = 0.0
        for r in range(first, last):
            total = 0.0
            sound = True
            for k in range(stack.shape[2]):
                value = np.float64(stack[m, r, k])
                total += value
                sound &= value >= 0
            place = shift + r
            entry = stack[m, r, codes[place]]
            entries[m, place] = entry
            least[place] = min(least[place], np.float64(entry))
            far = abs(total - 1.0) if sound else np.inf
            farthest[place] = max(farthest[place], far)
            gone += shares[place] * (total - 1.0)
        drift[m] += gone


@compiled
def log_sums(entries, sums, floor, members, out):
    """Sums over the rows of log(max(sums + entries of a member, floor)).

    Numbers are multiplied and only exponents are taken out on the way, exactly, so
    that there is a logarithm for each of `LANES` products alone. Each factor adds a
    relative error of 2**-52, which is what the sum of logarithms is off by.

    Parameters
    ----------
    entries : ndarray of shape (n_members, n_rows)
    sums : ndarray of shape (n_rows,)
    floor : float, at least 2**-52
    members : ndarray of indices
    out : ndarray of the shape of ``members``
        Filled.
    """
    products = np.ones((members.size, LANES))
    bits = products.view(np.int64)
    exponents = np.zeros((members.size, LANES), np.int64)
    for start in range(0, sums.size, PIECE):
        stop = min(start + PIECE, sums.size)
        for i in range(members.size):
            row = entries[members[i]]
            for first in range(start, stop, LANES):
                width = min(LANES, stop - first)
                part, added = row[first : first + width], sums[first : first + width]
                _multiply(products[i, :width], part, added, floor)
            _normalise(bits[i], exponents[i])
    for i in range(members.size):
        total = 0.0
        exponent = 0
        for k in range(LANES):
            total += np.log(products[i, k])
            exponent += exponents[i, k]
        out[i] = total + exponent * _LOG_2


@compiled
def _multiply(products, row, sums, floor):
    for k in range(products.size):
        value = sums[k] + np.float64(row[k])
        products[k] *= value if value > floor else floor


@compiled
def _normalise(bits, exponents):
    """Bring numbers between 1 and 2, their exponents into a sum."""
    for k in range(bits.size):
        exponents[k] += (bits[k] >> 52) - 1023
        bits[k] = (bits[k] & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000


@compiled
def weighted_log_sums(entries, sums, shares, floor, members, out):
    """Sums over the rows of shares * log(max(sums + entries of a member, floor)).

    Parameters
    ----------
    entries, sums, floor, members, out
        As in `log_sums`.
    shares : ndarray of shape (n_rows,)
        What rows count.
    """
    totals = np.zeros((members.size, LANES))
    for start in range(0, sums.size, PIECE):
        stop = min(start + PIECE, sums.size)
        for i in range(members.size):
            row = entries[members[i]]
            for first in range(start, stop, LANES):
                last = first + min(LANES, stop - first)
                lane = totals[i, : last - first]
                part, added = row[first:last], sums[first:last]
                _add_logs(lane, part, added, shares[first:last], floor)
    for i in range(members.size):
        out[i] = totals[i].sum()


@compiled
def _add_logs(totals, row, sums, shares, floor):
    for k in range(totals.size):
        value = sums[k] + np.float64(row[k])
        totals[k] += shares[k] * _log(value if value > floor else floor)


@inlined
def _log(value):
    """Logarithm of a normal positive number, without a branch."""
    bits = np.float64(value).view(np.int64)
    mantissa = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    # Integers become floats by their place in 2**52 + n: converted, they are not
    # vectorised.
    power = np.int64((bits >> 52) | 0x4330000000000000).view(np.float64)
    power -= 2.0**52 + 1023
    high = mantissa > 2 * _LOW
    mantissa = mantissa * 0.5 if high else mantissa
    power = power + 1.0 if high else power
    f = mantissa - 1.0
    s = np.divide(f, 2.0 + f)  # no look for a zero, which would not be vectorised
    z = s * s
    r = 1.531383769920937332e-01 + z * 1.479819860511658591e-01
    r = 1.818357216161805012e-01 + z * r
    r = 2.222219843214978396e-01 + z * r
    r = 2.857142874366239149e-01 + z * r
    r = 3.999999999940941908e-01 + z * r
    r = z * (6.666666666666735130e-01 + z * r)
    half = 0.5 * f * f
    return power * _LOG_2 - (half - s * (half + r) - f)
