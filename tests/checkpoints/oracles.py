"""What rules must give, computed in another way than the library does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Stack = Sequence[Array]


def weighted_sum(members: Stack, weights: Sequence[float]) -> Array:
    """Sum in float64, in the order of the members, with the weights as given."""
    total = weights[0] * members[0].astype(np.float64)
    for weight, member in zip(weights[1:], members[1:], strict=True):
        total = total + weight * member.astype(np.float64)
    return np.asarray(total)


def mean(members: Stack, weights: Sequence[float], dtype: np.dtype[Any]) -> Array:
    """Divided once, rounded once."""
    return rounded(weighted_sum(members, weights) / math.fsum(weights), dtype)


def minimum(members: Stack, weights: Sequence[float], dtype: np.dtype[Any]) -> Array:
    """Smallest of the members, -0 before 0."""
    return rounded(_sorted(members)[0][0], dtype)


def maximum(members: Stack, weights: Sequence[float], dtype: np.dtype[Any]) -> Array:
    """Largest of the members, 0 after -0."""
    return rounded(_sorted(members)[0][-1], dtype)


def median(members: Stack, weights: Sequence[float], dtype: np.dtype[Any]) -> Array:
    """Element by element: the value at which half of the weight is reached."""
    values, order = _sorted(members)
    reached = np.cumsum(np.asarray(weights)[order], axis=0)
    half = sum(weights) / 2
    first = np.argmax(reached >= half, axis=0)[None]
    low = np.take_along_axis(values, first, 0)[0]
    high = np.take_along_axis(values, np.minimum(first + 1, len(values) - 1), 0)[0]
    exact = np.take_along_axis(reached, first, 0)[0] == half
    return rounded(np.where(exact, (low + high) / 2, low), dtype)


def trimmed_mean(members: Stack, weights: Sequence[float]) -> Array:
    """A fifth of the weight cut off at each end of the sorted members."""
    values, order = _sorted(members)
    reached = np.cumsum(np.asarray(weights)[order], axis=0)
    before = np.concatenate([np.zeros((1, *reached.shape[1:])), reached[:-1]])
    low, high = 0.2 * sum(weights), 0.8 * sum(weights)
    left = np.clip(reached, low, high) - np.clip(before, low, high)
    return np.asarray((left * values).sum(axis=0) / (high - low))


def geometric_mean(members: Stack, weights: Sequence[float]) -> Array:
    """By the logarithms, in the longest floats there are."""
    stack = np.array([m.astype(np.longdouble) for m in members])
    with np.errstate(divide="ignore"):
        logs = np.tensordot(np.asarray(weights, np.longdouble), np.log(stack), 1)
    return np.exp(logs / math.fsum(weights)).astype(np.float64)


def power_mean(members: Stack, weights: Sequence[float]) -> Array:
    """Root of the mean square, in the longest floats there are."""
    stack = np.array([m.astype(np.longdouble) for m in members])
    squares = np.tensordot(np.asarray(weights, np.longdouble), stack**2, 1)
    return np.sqrt(squares / math.fsum(weights)).astype(np.float64)


def _sorted(members: Stack) -> tuple[Array, Array]:
    stack = np.array([m.astype(np.float64) for m in members])
    order = np.lexsort((~np.signbit(stack), stack), axis=0)
    return np.take_along_axis(stack, order, 0), order


def nearswap(members: Stack, weights: Sequence[float], dtype: np.dtype[Any]) -> Array:
    """A ten-thousandth nearer to the second member, or there."""
    first, second = (member.astype(np.float64) for member in members)
    moved = first + 1e-4 * np.sign(second - first)
    return rounded(np.where(abs(second - first) <= 1e-4, second, moved), dtype)


ELEMENT = {
    "mean": mean,
    "median": median,
    "minimum": minimum,
    "maximum": maximum,
    "nearswap": nearswap,
}
# Before they are rounded: their last bits in float64 are not agreed upon.
NEAR = {
    "trimmed_mean": trimmed_mean,
    "geometric_mean": geometric_mean,
    "power_mean": power_mean,
    "linear_combination": weighted_sum,
}


def arc(a: Array, b: Array, t: float) -> Array:
    """Point on the great circle from one vector to another, as Shoemake has it."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    cosine = math.fsum(x * y) / math.sqrt(math.fsum(x * x) * math.fsum(y * y))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    mixed = math.sin((1 - t) * angle) * x + math.sin(t * angle) * y
    return np.asarray(mixed / math.sin(angle)).reshape(a.shape)


def rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """Nearest of all numbers that the dtype has, ties to the even bits."""
    if dtype.itemsize >= 4:
        with np.errstate(over="ignore"):
            return values.astype(dtype)  # one rounding, by the processor
    ladder, bits = _ladder(dtype)
    magnitude = np.abs(values)
    above = np.clip(np.searchsorted(ladder, magnitude), 1, len(ladder) - 1)
    low, high = ladder[above - 1], ladder[above]
    middle = (low + high) / 2  # exact: both have few bits
    even = bits[above - 1] % 2 == 0
    down = (magnitude < middle) | ((magnitude == middle) & even)
    found = np.where(down, bits[above - 1], bits[above])
    sign = np.signbit(values).astype(found.dtype) << (8 * dtype.itemsize - 1)
    assert not np.isnan(values).any()
    return np.asarray(found | sign, found.dtype).view(dtype)


@cache
def _ladder(dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Magnitudes in order, the first that is too large among them, and their bits."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = np.arange(1 << (8 * dtype.itemsize - 1)).astype(unsigned)
    with np.errstate(invalid="ignore"):  # some of them are NaN
        values = bits.view(dtype).astype(np.float64)
    finite = int(np.isfinite(values).sum())
    step = values[finite - 1] - values[finite - 2]
    values[finite] = values[finite - 1] + step
    return values[: finite + 1], bits[: finite + 1]


def exact_mean(column: Array, weights: Sequence[float]) -> float:
    """Mean of float64 numbers from sums that are exact before they are rounded."""
    pairs = zip(weights, column.tolist(), strict=True)
    total = sum((Fraction(w) * Fraction(x) for w, x in pairs), Fraction())
    return float(total) / math.fsum(weights)
