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
_SQRT_HALF = 0.7071067811865476
_LOG_2 = 0.6931471805599453


@compiled
def gather_true_class(
    stack,
    first,
    last,
    shift,
    codes,
    row_weights,
    true_proba,
    excess,
    max_deviation,
    min_proba,
):
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
    row_weights : ndarray of shape (n_outputs * n_rows,)
        Weights of the rows.
    true_proba : ndarray of shape (n_members, n_outputs * n_rows)
        Output: probabilities of the true classes.
    excess : ndarray of shape (n_members,)
        Output: the weighted sum of (row sum - 1) is added to each member's element.
    max_deviation : ndarray of shape (n_outputs * n_rows,)
        Output: largest |row sum - 1| of any member; infinite if a probability is
        negative or NaN.
    min_proba : ndarray of shape (n_outputs * n_rows,)
        Output: smallest probability of the true class of any member.
    """
    max_deviation[shift + first : shift + last] = 0.0
    min_proba[shift + first : shift + last] = np.inf
    for m in range(stack.shape[0]):
        total_excess = 0.0
        for r in range(first, last):
            total = 0.0
            is_valid = True
            for k in range(stack.shape[2]):
                value = np.float64(stack[m, r, k])
                total += value
                is_valid &= value >= 0
            index = shift + r
            proba = stack[m, r, codes[index]]
            true_proba[m, index] = proba
            min_proba[index] = min(min_proba[index], np.float64(proba))
            deviation = abs(total - 1.0) if is_valid else np.inf
            max_deviation[index] = max(max_deviation[index], deviation)
            total_excess += row_weights[index] * (total - 1.0)
        excess[m] += total_excess


@compiled
def log_sums(true_proba, sums, floor, members, out):
    """Sum log(max(sums + true_proba[m], floor)) over the rows, for each member m.

    Adds logarithms by multiplying the numbers, so that only `LANES` logarithms are
    computed per member. Exponents are split off exactly before products overflow. Each
    factor has a relative error of 2**-52, which is its error in the sum of logarithms.

    Parameters
    ----------
    true_proba : ndarray of shape (n_members, n_rows)
        Probabilities of the true classes, from `gather_true_class`.
    sums : ndarray of shape (n_rows,)
        Sums of ``true_proba`` over the members added before.
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
            row = true_proba[members[i]]
            for first in range(start, stop, LANES):
                last = first + min(LANES, stop - first)
                lanes = products[i, : last - first]
                _multiply(lanes, row[first:last], sums[first:last], floor)
            _normalize(bits[i], exponents[i])
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
def _normalize(bits, exponents):
    """Scale numbers to [1, 2) and add their binary exponents to ``exponents``."""
    for k in range(bits.size):
        exponents[k] += (bits[k] >> 52) - 1023
        bits[k] = (bits[k] & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000


@compiled
def weighted_log_sums(true_proba, sums, row_weights, floor, members, out):
    """Weighted sum of log(max(sums + true_proba[m], floor)), for each member m.

    Parameters
    ----------
    true_proba, sums, floor, members, out
        As in `log_sums`.
    row_weights : ndarray of shape (n_rows,)
        Weights of the rows.
    """
    totals = np.zeros((members.size, LANES))
    for start in range(0, sums.size, PIECE):
        stop = min(start + PIECE, sums.size)
        for i in range(members.size):
            row = true_proba[members[i]]
            for first in range(start, stop, LANES):
                last = first + min(LANES, stop - first)
                lanes, part = totals[i, : last - first], row[first:last]
                _add_logs(lanes, part, sums[first:last], row_weights[first:last], floor)
    for i in range(members.size):
        out[i] = totals[i].sum()


@compiled
def _add_logs(totals, row, sums, row_weights, floor):
    for k in range(totals.size):
        value = sums[k] + np.float64(row[k])
        totals[k] += row_weights[k] * _log(value if value > floor else floor)


@inlined
def _log(value):
    """Logarithm of a normal positive number, without a branch."""
    bits = np.float64(value).view(np.int64)
    mantissa = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    # The integer n becomes the float 2**52 + n by its bits: a conversion would not be
    # vectorized.
    power = np.int64((bits >> 52) | 0x4330000000000000).view(np.float64)
    power -= 2.0**52 + 1023
    high = mantissa > 2 * _SQRT_HALF
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
