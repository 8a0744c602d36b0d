# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loops over true-class probabilities, for the log-loss of their mean."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled, inlined

LANES = 128  # independent products or sums: row j goes to lane j % LANES
DEPTH = 16  # factors, each above 2**-53, before the exponent of a product is split off
PIECE = LANES * DEPTH  # rows per block: 16 KiB in float64

# log(1 + f) = f - s (f - R(s**2)), s = f / (2 + f), for 1 + f between 1/sqrt(2) and
# sqrt(2), error less than 2**-58: Sun's fdlibm (1993), e_log.c.
_LOW = 0.7071067811865476
_LOG_2 = 0.6931471805599453


@compiled
def gather(stack, first, last, shift, codes, shares, entries, drift, farthest, least):
    """Extract the probabilities of the true classes and the deviations of row sums.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_rows, n_classes)
        Class probabilities of the members, for one output.
    first, last : int
        Range of rows to process, ``last`` excluded.
    shift : int
        Row r of the stack has index ``shift + r`` in the arrays over all outputs.
    codes : ndarray of shape (n_outputs * n_rows,), int64
        Indices of the true classes.
    shares : ndarray of shape (n_outputs * n_rows,)
        Weights of the rows.
    entries : ndarray of shape (n_members, n_outputs * n_rows)
        Output: probabilities of the true classes.
    drift : ndarray of shape (n_members,)
        Output: the weighted sum of (row sum - 1) is added to each member's entry.
    farthest : ndarray of shape (n_outputs * n_rows,)
        Output: largest |row sum - 1| of any member; infinite if an entry is negative
        or NaN.
    least : ndarray of shape (n_outputs * n_rows,)
        Output: smallest probability of the true class of any member.
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
    """Sum log(max(sums + entries[m], floor)) over the rows, for each member m.

    The numbers are multiplied, and the exponents of the products are split off exactly
    in between, so that only `LANES` logarithms are computed per member. Each factor has
    a relative error of 2**-52, which is its error in the sum of logarithms.

    Parameters
    ----------
    entries : ndarray of shape (n_members, n_rows)
        Probabilities of the true classes, from `gather`.
    sums : ndarray of shape (n_rows,)
        Sums of the entries of the members added before.
    floor : float, at least 2**-52
        Smaller sums are raised to this value.
    members : ndarray of indices
        Members to add, each by itself.
    out : ndarray of the shape of ``members``
        Output: one sum of logarithms per member.
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
    """Scale numbers to [1, 2) and add their binary exponents to ``exponents``."""
    for k in range(bits.size):
        exponents[k] += (bits[k] >> 52) - 1023
        bits[k] = (bits[k] & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000


@compiled
def weighted_log_sums(entries, sums, shares, floor, members, out):
    """Sum shares * log(max(sums + entries[m], floor)) over the rows, for each member m.

    Parameters
    ----------
    entries, sums, floor, members, out
        As in `log_sums`.
    shares : ndarray of shape (n_rows,)
        Weights of the rows.
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
    # The integer n becomes the float 2**52 + n by its bits: a conversion would not be
    # vectorized.
    power = np.int64((bits >> 52) | 0x4330000000000000).view(np.float64)
    power -= 2.0**52 + 1023
    high = mantissa > 2 * _LOW
    mantissa = mantissa * 0.5 if high else mantissa
    power = power + 1.0 if high else power
    f = mantissa - 1.0
    s = np.divide(f, 2.0 + f)  # no check for zero, which prevents vectorization
    z = s * s
    r = 1.531383769920937332e-01 + z * 1.479819860511658591e-01
    r = 1.818357216161805012e-01 + z * r
    r = 2.222219843214978396e-01 + z * r
    r = 2.857142874366239149e-01 + z * r
    r = 3.999999999940941908e-01 + z * r
    r = z * (6.666666666666735130e-01 + z * r)
    half = 0.5 * f * f
    return power * _LOG_2 - (half - s * (half + r) - f)
