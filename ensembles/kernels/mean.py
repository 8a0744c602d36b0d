# mypy: disable-error-code="no-untyped-def"
"""Weighted mean of members: summed in float64, divided once, rounded once."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels.casting import (
    format_constants,
    round_bfloat16,
    round_small,
    widen_bfloat16,
    widen_small,
)
from ensembles.kernels.jit import LANE, PIECE, compiled, inlined, use_loops
from ensembles.kernels.mean_bfloat16 import max_exponent_gap, mean_equal_weights
from ensembles.parallel import chunks

# Below this value, products and their errors may have lost bits to underflow.
SMALLEST_CERTAIN = 2.0**-900


def mean(stack: Array, weights: Float64, total: float | None = None) -> Array:
    """Weighted sum of the members divided by ``total``, rounded once.

    The sum is accumulated in float64 in the order of the members. For float64 members
    it is compensated (Ogita, Rump & Oishi 2005, "Accurate sum and dot product",
    algorithm 5.3) and rounded once, as in ``math.fsum``, before the division.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    total : float or None, default=None
        Divisor of the sum; None divides by the sum of the weights.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``
    """
    total = math.fsum(weights) if total is None else total
    if len(stack) == 1 and weights[0] == total:
        return np.array(stack[0])
    out = np.empty(stack.shape[1], stack.dtype)
    form = FLOATS[stack.dtype]
    if not use_loops(stack.size * (4 if form.mantissa == 52 else 1)):
        for start, stop in chunks(out.size, PIECE):
            out[start:stop] = mean_reference(stack[:, start:stop], weights, total)
    elif form.mantissa == 52:
        _mean_float64(stack, weights, total, out)
        _fill_exactly(stack, weights, total, out)
    elif form.mantissa == 23:
        _mean_float32(stack, weights, total, out)
    elif form.mantissa == 7:
        gap, bits = max_exponent_gap(weights, total), stack.view(np.uint16)
        _mean_bfloat16(bits, weights, total, gap, out.view(np.uint16))
    else:
        bits, rounded = stack.view(form.bits), out.view(form.bits)
        _mean_small(bits, weights, total, rounded, *format_constants(form))
    return out


def mean_reference(stack: Array, weights: Float64, total: float) -> Array:
    """NumPy reference of `mean`.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    total : float
        Divisor of the sum.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``
    """
    if FLOATS[stack.dtype].mantissa < 52:
        return _plain_mean(stack, weights, total)
    sums, errors = np.full((2, stack.shape[1]), -0.0)
    residuals = np.zeros(stack.shape[1])
    with np.errstate(all="ignore"):
        for row, weight in zip(stack, weights, strict=True):
            sums, errors, residual = add_exactly(sums, errors, row, weight)
            residuals += residual
        rounded = sums + errors
        bound = 2 * residuals + np.where(residuals > 0, np.abs(errors) * 2.0**-52, 0.0)
        is_certain = sums + (errors - bound) == rounded
        is_certain &= sums + (errors + bound) == rounded
        is_certain &= np.abs(rounded) >= SMALLEST_CERTAIN
        out = np.where(is_certain, rounded / total, np.nan)
    _fill_exactly(stack, weights, total, out)
    return out


def _plain_mean(stack: Array, weights: Float64, total: float) -> Array:
    with np.errstate(all="ignore"):
        sums = weights[0] * stack[0].astype(np.float64)
        for row, weight in zip(stack[1:], weights[1:], strict=True):
            # The product first: if both are NaN, its bits are kept, as in the loops.
            np.add(weight * row.astype(np.float64), sums, out=sums)
        return round_to_dtype(sums / total, stack.dtype)


def has_nonfinite(values: Array) -> bool:
    """Whether any value is NaN or infinite.

    Parameters
    ----------
    values : ndarray of shape (size,), a float format
        Values to check.

    Returns
    -------
    bool
    """
    form = FLOATS[values.dtype]
    signed = np.dtype(f"i{form.dtype.itemsize}")
    bits, magnitude = values.view(signed), signed.type(np.iinfo(signed).max)
    limit = signed.type(form.special - 1)
    if not use_loops(values.size // 16):  # NumPy takes some 0.3 ns for each value
        pieces = (bits[start:stop] for start, stop in chunks(bits.size, 4 * PIECE))
        return any((piece & magnitude).max() > limit for piece in pieces)
    return bool(_any_above(bits, magnitude, limit))


@compiled
def _any_above(bits, magnitude, limit):
    is_above = False
    for j in range(bits.size):
        is_above |= (bits[j] & magnitude) > limit
    return is_above


@inlined
def _add(sums, values, weight, first):
    if first:  # not 0 + x, which would lose the sign of a negative zero
        for j in range(values.size):
            sums[j] = weight * np.float64(values[j])
    else:
        for j in range(values.size):
            sums[j] += weight * np.float64(values[j])


@inlined
def _divide(sums, total):
    for j in range(sums.size):
        sums[j] /= total


@compiled
def _mean_float32(stack, weights, total, out):
    sums = np.empty(LANE, np.float64)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        part = sums[: stop - start]
        for i in range(weights.size):
            _add(part, stack[i, start:stop], weights[i], i == 0)
        _divide(part, total)
        for j in range(part.size):
            out[start + j] = np.float32(part[j])


@compiled
def _mean_bfloat16(stack, weights, total, gap, out):
    sums = np.empty(LANE, np.float64)
    words = np.empty(LANE, np.uint32)
    values = words.view(np.float32)
    ends = np.empty((2, LANE), np.uint16)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        size = stop - start
        lane = out[start:stop]
        if gap > 0 and mean_equal_weights(stack, start, stop, gap, ends, words, lane):
            continue
        for i in range(weights.size):
            widen_bfloat16(stack[i, start:stop], words[:size])
            _add(sums[:size], values[:size], weights[i], i == 0)
        _divide(sums[:size], total)
        round_bfloat16(sums[:size], words[:size], lane)


@compiled
def _mean_small(stack, weights, total, out, shift, width, special, bias):
    sums = np.empty(LANE, np.float64)
    words = np.empty(LANE, np.uint32)
    values = words.view(np.float32)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        part, lane = sums[: stop - start], words[: stop - start]
        for i in range(weights.size):
            widen_small(stack[i, start:stop], lane, shift, width, special, bias)
            _add(part, values[: stop - start], weights[i], i == 0)
        _divide(part, total)
        rounded = out[start:stop]
        round_small(part, lane, rounded, shift, width, special, bias)


def add_exactly(s: Any, e: Any, x: Any, weight: Any) -> tuple[Any, Any, Any]:
    """Add ``weight * x`` to a sum ``s`` with rounding error ``e``.

    Returns the new sum, its new error, and a bound of the rounding error of the new
    error. Arguments are numbers in a loop, and arrays in NumPy.
    """
    split = 134217729.0  # 2**27 + 1 splits a float64 into two halves (Dekker 1971)
    high_weight = split * weight - (split * weight - weight)
    low_weight = weight - high_weight
    product = weight * x
    high = split * x - (split * x - x)
    low = x - high
    cut = product - high * high_weight - low * high_weight - high * low_weight
    missing = low * low_weight - cut
    new_sum = s + product
    back = new_sum - s
    error = (s - (new_sum - back)) + (product - back)
    both = error + missing
    part = both - error
    residual = abs((error - (both - part)) + (missing - part))
    new_error = e + both
    part = new_error - e
    residual = residual + abs((e - (new_error - part)) + (both - part))
    return new_sum, new_error, residual


inlined_add = inlined(add_exactly)


@compiled
def _add_product(sums, errors, residuals, row, weight):
    for j in range(row.size):
        sums[j], errors[j], residual = inlined_add(sums[j], errors[j], row[j], weight)
        residuals[j] += residual


@compiled
def _mean_float64(stack, weights, total, out):
    """Write means from compensated sums; NaN if a sum may be rounded wrongly."""
    sums, errors = np.empty(LANE, np.float64), np.empty(LANE, np.float64)
    residuals = np.empty(LANE, np.float64)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        size = stop - start
        for j in range(size):
            sums[j], errors[j], residuals[j] = -0.0, -0.0, 0.0
        for i in range(weights.size):
            row = stack[i, start:stop]
            _add_product(sums[:size], errors[:size], residuals[:size], row, weights[i])
        for j in range(size):
            s, e = sums[j], errors[j]
            rounded = s + e
            # Largest distance of the exact sum; both ends must round to the same value.
            bound = 2 * residuals[j] + (abs(e) * 2.0**-52 if residuals[j] > 0 else 0.0)
            is_certain = (s + (e - bound) == rounded) & (s + (e + bound) == rounded)
            is_certain &= abs(rounded) >= SMALLEST_CERTAIN
            out[start + j] = rounded / total if is_certain else np.nan


def _fill_exactly(stack: Array, weights: Float64, total: float, out: Array) -> None:
    """Compute NaN means exactly: of huge or tiny values, or after cancellation."""
    uncertain = np.flatnonzero(np.isnan(out))
    members = stack[:, uncertain]
    with np.errstate(invalid="ignore"):  # signaling NaN
        is_special = (members == 0).all(0) | ~np.isfinite(members).all(0)
    is_special |= ~np.isfinite(weights).all()
    out[uncertain[is_special]] = _plain_mean(members[:, is_special], weights, total)
    for j, column in zip(
        uncertain[~is_special], members[:, ~is_special].T, strict=True
    ):
        pairs = zip(weights.tolist(), column.tolist(), strict=True)
        weighted_sum = sum((Fraction(w) * Fraction(x) for w, x in pairs), Fraction())
        out[j] = _nearest(weighted_sum / Fraction(total))


def _nearest(quotient: Fraction) -> float:
    try:
        return float(quotient)
    except OverflowError:
        return math.inf if quotient > 0 else -math.inf
