# mypy: disable-error-code="no-untyped-def"
"""Weighted sums of task vectors: added to the base in float64, rounded once."""

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
    widen_reference,
    widen_small,
)
from ensembles.kernels.jit import LANE, PIECE, compiled, inlined, use_loops
from ensembles.kernels.mean import add_exactly, inlined_add
from ensembles.parallel import chunks


def add_task_vectors(
    stack: Array,
    weights: Float64,
    base: Array,
    *,
    scale: float = 1.0,
    divisor: float = 1.0,
) -> Array:
    """Base plus a weighted sum of the members' differences from it, rounded once.

    Computes ``base + scale * sum(w[i] (x[i] - base)) / divisor`` in float64, in the
    order of the members. For float64 members the sum is compensated and divided with
    twice the precision, so that the result is within one unit in the last place, also
    where base and sum cancel.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    scale : float, default=1.0
        Factor of the sum.
    divisor : float, not 0, default=1.0
        Divisor of the sum.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``
        A NaN has the same bits, whatever NaN it comes from.
    """
    if not np.all(weights):  # a member without weight may hold NaN
        stack, weights = stack[weights != 0], weights[weights != 0]
    out = np.empty(base.shape, base.dtype)
    form = FLOATS[base.dtype]
    arguments = weights, base, scale, divisor
    if not use_loops(2 * stack.size * (4 if form.mantissa == 52 else 1)):
        for start, stop in chunks(out.size, PIECE):
            out[start:stop] = add_task_vectors_reference(
                stack[:, start:stop], weights, base[start:stop], scale, divisor
            )
    elif form.mantissa == 52:
        _add_float64(stack, *arguments, *_factor(scale, divisor), out)
    elif form.mantissa == 23:
        _add_float32(stack, *arguments, out)
    else:
        bits = stack.view(form.bits), weights, base.view(form.bits), scale, divisor
        if form.mantissa == 7:
            _add_bfloat16(*bits, out.view(form.bits))
        else:
            _add_small(*bits, out.view(form.bits), *format_constants(form))
    return out


def add_task_vectors_reference(
    stack: Array, weights: Float64, base: Array, scale: float, divisor: float
) -> Array:
    """NumPy reference of `add_task_vectors`.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    scale : float
        Factor of the sum.
    divisor : float, not 0
        Divisor of the sum.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``
    """
    dtype = base.dtype
    rows = [_wide(row) for row in (*stack, base)]
    origin, sums = rows.pop(), np.zeros(base.shape)
    with np.errstate(all="ignore"):
        for row, weight in zip(rows, weights, strict=True):
            sums += weight * (row - origin)
        values = origin + sums * scale / divisor
        if FLOATS[dtype].mantissa == 52:
            exact = _exact_reference(rows, weights, origin, _factor(scale, divisor))
            values = np.where(np.isfinite(exact), exact, values)
    values[np.isnan(values)] = np.nan
    return round_to_dtype(values, dtype)


def _wide(values: Array) -> Float64:
    if FLOATS[values.dtype].mantissa < 23:
        return widen_reference(values)
    with np.errstate(invalid="ignore"):  # signaling NaN
        return values.astype(np.float64)


def _exact_reference(
    rows: list[Float64], weights: Float64, base: Float64, factor: tuple[float, float]
) -> Float64:
    sums, errors = np.zeros((2, *base.shape))
    for row, weight in zip(rows, weights, strict=True):
        sums, errors, _ = add_exactly(sums, errors, row, weight)
        sums, errors, _ = add_exactly(sums, errors, base, -weight)
    high, low, _ = add_exactly(0.0, 0.0, sums, factor[0])
    low = low + (sums * factor[1] + errors * factor[0])
    return np.asarray(_add_pair(base, high, low))


def _factor(scale: float, divisor: float) -> tuple[float, float]:
    """Nearest float64 to a quotient, and its rounding error."""
    if not math.isfinite(scale):  # of a tensor with NaN
        return scale, 0.0
    exact = Fraction(scale) / Fraction(divisor)
    nearest = float(exact)
    return nearest, float(exact - Fraction(nearest))


def _add_pair(base: Any, high: Any, low: Any) -> Any:
    """Add ``high`` and a much smaller ``low`` to the base, and round once.

    Arguments are numbers in a loop, and arrays in NumPy.
    """
    total = base + high
    back = total - base
    return total + ((base - (total - back)) + (high - back) + low)


inlined_pair = inlined(_add_pair)


@inlined
def _add_difference(sums, values, base, weight):
    for j in range(sums.size):
        sums[j] += weight * (np.float64(values[j]) - base[j])


@inlined
def _add_to_base(sums, base, scale, divisor):
    for j in range(sums.size):
        value = base[j] + sums[j] * scale / divisor
        sums[j] = value if value == value else np.nan


@compiled
def _add_float64(stack, weights, base, scale, divisor, factor, rest, out):
    """Write compensated sums; plain ones where they are infinite or NaN."""
    sums, errors, plain = np.empty(LANE), np.empty(LANE), np.empty(LANE)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        size = stop - start
        origin = base[start:stop]
        for j in range(size):
            sums[j], errors[j], plain[j] = 0.0, 0.0, 0.0
        for i in range(weights.size):
            row = stack[i, start:stop]
            _add_difference(plain[:size], row, origin, weights[i])
            for j in range(size):
                s, e, _ = inlined_add(sums[j], errors[j], row[j], weights[i])
                sums[j], errors[j], _ = inlined_add(s, e, origin[j], -weights[i])
        _add_to_base(plain[:size], origin, scale, divisor)
        for j in range(size):
            high, low, _ = inlined_add(0.0, 0.0, sums[j], factor)
            low += sums[j] * rest + errors[j] * factor
            value = inlined_pair(origin[j], high, low)
            out[start + j] = value if np.isfinite(value) else plain[j]


@compiled
def _add_float32(stack, weights, base, scale, divisor, out):
    sums, origin = np.empty(LANE), np.empty(LANE)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        size = stop - start
        for j in range(size):
            origin[j], sums[j] = base[start + j], 0.0
        for i in range(weights.size):
            _add_difference(sums[:size], stack[i, start:stop], origin, weights[i])
        _add_to_base(sums[:size], origin, scale, divisor)
        for j in range(size):
            out[start + j] = np.float32(sums[j])


@compiled
def _add_bfloat16(stack, weights, base, scale, divisor, out):
    sums, origin = np.empty(LANE), np.empty(LANE)
    words = np.empty(LANE, np.uint32)
    values = words.view(np.float32)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        size = stop - start
        widen_bfloat16(base[start:stop], words[:size])
        for j in range(size):
            origin[j], sums[j] = values[j], 0.0
        for i in range(weights.size):
            widen_bfloat16(stack[i, start:stop], words[:size])
            _add_difference(sums[:size], values, origin, weights[i])
        _add_to_base(sums[:size], origin, scale, divisor)
        round_bfloat16(sums[:size], words[:size], out[start:stop])


@compiled
def _add_small(stack, weights, base, scale, divisor, out, shift, width, special, bias):
    sums, origin = np.empty(LANE), np.empty(LANE)
    words = np.empty(LANE, np.uint32)
    values = words.view(np.float32)
    for start in range(0, out.size, LANE):
        stop = min(start + LANE, out.size)
        size = stop - start
        lane = words[:size]
        widen_small(base[start:stop], lane, shift, width, special, bias)
        for j in range(size):
            origin[j], sums[j] = values[j], 0.0
        for i in range(weights.size):
            widen_small(stack[i, start:stop], lane, shift, width, special, bias)
            _add_difference(sums[:size], values, origin, weights[i])
        _add_to_base(sums[:size], origin, scale, divisor)
        round_small(sums[:size], lane, out[start:stop], shift, width, special, bias)
