# mypy: disable-error-code="no-untyped-def"
"""Mean of bfloat16 members that count alike, in float32 where that changes nothing.

Numbers of 8 bits whose exponents are at most d apart are multiples of the smallest
one's last bit, and n of them add up to less than n 2**(d + 8) of it: with that at most
2**24, float32 holds every sum exactly, in any order. A quotient k / n of integers with
k < 2**24 and n < 2**15 is either a tie of bfloat16 or further from it than half a step
of float32, so that rounding it twice is rounding it once. Other lanes, of NaN or
infinity or of numbers far apart, are left to float64.
"""

from __future__ import annotations

import math

import numpy as np

from ensembles._typing import Float64
from ensembles.kernels.jit import inlined

MOST_MEMBERS = 256


def farthest(weights: Float64, total: float) -> np.uint16:
    """How far apart exponents may be, as bits of bfloat16; 0 if weights differ.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
    total : float

    Returns
    -------
    numpy.uint16
    """
    n_members, weight = len(weights), float(weights[0])
    alike = bool((weights == weight).all()) and total == n_members * weight
    # Powers of two change no digit of the float64 sum that is to be equalled.
    exact = math.frexp(weight)[0] == 0.5 and 2.0**-100 < weight < 2.0**100
    if not (alike and exact and 2 <= n_members <= MOST_MEMBERS):
        return np.uint16(0)
    return np.uint16((16 - (n_members - 1).bit_length()) << 7)


@inlined
def equal_lane(stack, start, stop, gap, ends, words, out):
    """Means of a lane; False, and nothing done, where float32 may not be exact."""
    n_members, size = stack.shape[0], stop - start
    # Largest magnitudes, and smallest that are not 0, less one step: 0 is 65535.
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
        least = np.uint16(smallest[j] & exponent)
        limit = np.uint16((least if least < top else top) + gap)
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
