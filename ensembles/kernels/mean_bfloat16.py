# mypy: disable-error-code="no-untyped-def"
"""Equally weighted mean of bfloat16 members in float32, where float64 gives the same.

Numbers with 8 significant bits whose exponents differ by at most d are multiples of the
last bit of the smallest one, and n of them add up to less than n 2**(d + 8) times this
bit: if that is at most 2**24, float32 holds every sum exactly, in any order. A quotient
k / n of integers with k < 2**24 and n < 2**15 is either a tie of bfloat16 or further
from one than half a step of float32, so rounding it twice equals rounding it once.
Other lanes, with NaN, infinity or larger differences of exponents, are summed in
float64.
"""

from __future__ import annotations

import math

import numpy as np

from ensembles._typing import Float64
from ensembles.kernels.jit import inlined

MOST_MEMBERS = 256


def max_exponent_gap(weights: Float64, total: float) -> np.uint16:
    """Largest difference of exponents for which float32 sums are exact.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Weight of each member.
    total : float
        Divisor of the weighted sum.

    Returns
    -------
    numpy.uint16
        The difference, shifted to the exponent bits of bfloat16. 0 if float32 cannot be
        used: unequal weights, no power of two, or too many members.
    """
    n_members, weight = len(weights), float(weights[0])
    is_equal = bool((weights == weight).all()) and total == n_members * weight
    # Powers of two do not change the digits of the float64 sum to be reproduced.
    is_power_of_two = math.frexp(weight)[0] == 0.5 and 2.0**-100 < weight < 2.0**100
    if not (is_equal and is_power_of_two and 2 <= n_members <= MOST_MEMBERS):
        return np.uint16(0)
    return np.uint16((16 - (n_members - 1).bit_length()) << 7)


@inlined
def mean_equal_weights(stack, start, stop, gap, ends, words, out):
    """Write the means of a lane; return False, without writing, if not exact."""
    n_members, size = stack.shape[0], stop - start
    # Largest magnitudes, and smallest nonzero ones minus 1: 0 wraps around to 65535.
    largest, smallest = ends[0], ends[1]
    mask, one = np.uint16(0x7FFF), np.uint16(1)
    row = stack[0, start:stop]
    for j in range(size):
        x = np.uint16(row[j] & mask)
        largest[j], smallest[j] = x, np.uint16(x - one)
    for i in range(1, n_members):
        row = stack[i, start:stop]
        for j in range(size):
            x = np.uint16(row[j] & mask)
            below = np.uint16(x - one)
            largest[j] = x if x > largest[j] else largest[j]
            smallest[j] = below if below < smallest[j] else smallest[j]
    exponent, top, beyond = np.uint16(0x7F80), np.uint16(0x6000), np.uint16(0)
    for j in range(size):
        min_exponent = np.uint16(smallest[j] & exponent)
        limit = np.uint16((min_exponent if min_exponent < top else top) + gap)
        beyond = np.uint16(beyond | np.uint16(limit - np.uint16(largest[j] & exponent)))
    if beyond >= 0x8000:
        return False
    sums, half = words.view(np.float32), np.uint32(16)
    row = stack[0, start:stop]
    for j in range(size):
        words[j] = np.uint32(row[j]) << half
    for i in range(1, n_members):
        row = stack[i, start:stop]
        for j in range(size):
            sums[j] += np.uint32(np.uint32(row[j]) << half).view(np.float32)
    count, almost = np.float32(n_members), np.uint32(0x7FFF)
    for j in range(size):
        word = np.float32(sums[j] / count).view(np.uint32)
        out[j] = np.uint16((word + almost + ((word >> half) & np.uint32(1))) >> half)
    return True
