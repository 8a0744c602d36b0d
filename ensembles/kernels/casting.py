# mypy: disable-error-code="no-untyped-def"
"""Conversion between float64 sums and the bits of narrow float formats.

Inlined loops take arrays of at most `LANE` elements. Words are float32 bits; float32
represents every number of a narrow format exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS, FloatFormat, round_to_dtype
from ensembles.kernels.jit import LANE, PIECE, compiled, inlined, use_loops
from ensembles.parallel import chunks


def narrow(values: Float64, dtype: np.dtype[Any]) -> Array:
    """Round float64 values once, as `ensembles.dtypes.round_to_dtype` does.

    Parameters
    ----------
    values : ndarray of shape (size,), float64
        Values to round; infinity and NaN are allowed.
    dtype : dtype, one of ``FLOATS``
        Target format.

    Returns
    -------
    ndarray of shape (size,), of ``dtype``
    """
    form = FLOATS[np.dtype(dtype)]
    if form.mantissa >= 23:
        return round_to_dtype(values, form.dtype)
    out = np.empty(values.shape, form.dtype)
    if not use_loops(2 * values.size):
        for start, stop in chunks(values.size, PIECE):
            out[start:stop] = round_to_dtype(values[start:stop], form.dtype)
    elif form.mantissa == 7:
        _round_all_bfloat16(values, out.view(form.bits))
    else:
        _round_all_small(values, out.view(form.bits), *format_constants(form))
    return out


@compiled
def _round_all_bfloat16(values, out):
    words, sums = np.empty(LANE, np.uint32), np.empty(LANE, np.float64)
    for start in range(0, out.size, LANE):
        size = min(LANE, out.size - start)
        sums[:size] = values[start : start + size]
        round_bfloat16(sums[:size], words[:size], out[start : start + size])


@compiled
def _round_all_small(values, out, shift, width, special, bias):
    words, sums = np.empty(LANE, np.uint32), np.empty(LANE, np.float64)
    for start in range(0, out.size, LANE):
        size = min(LANE, out.size - start)
        sums[:size] = values[start : start + size]
        part = out[start : start + size]
        round_small(sums[:size], words[:size], part, shift, width, special, bias)


@inlined
def to_odd(sums, values):
    """Round float64 to float32 to odd, so that rounding again to 22 bits is correct.

    The last bit is set if any bit was cut off (Boldo & Melquiond 2008, "Emulation of a
    FMA and correctly rounded sums: proved algorithms using rounding to odd", theorem
    1). Overwrites ``sums``.
    """
    low = np.uint64(0x1FFFFFFF)
    bits = sums.view(np.uint64)
    for j in range(sums.size):
        bits[j] = (bits[j] | ((bits[j] & low) + low)) & ~low
    for j in range(sums.size):
        values[j] = np.float32(sums[j])


@inlined
def widen_bfloat16(row, words):
    """Convert bfloat16 bits to words."""
    for j in range(row.size):
        words[j] = np.uint32(row[j]) << np.uint32(16)


@inlined
def round_bfloat16(sums, words, out):
    """Round float64 sums to bfloat16 bits, ties to even; ``words`` is scratch space."""
    to_odd(sums, words.view(np.float32))
    # 32 bits like the rest: a boolean would be widened, and is rarely vectorized.
    rare, first_normal = np.uint32(0), np.uint32(0x800000)
    for j in range(out.size):
        word = words[j]
        even = (word >> np.uint32(16)) & np.uint32(1)
        out[j] = np.uint16((word + np.uint32(0x7FFF) + even) >> np.uint32(16))
        size = np.uint32(word & np.uint32(0x7FFFFFFF))
        # Wraps around below the first normal number, to values as large as for NaN.
        beyond = np.uint32(size - first_normal) > np.uint32(0x7F000000)
        rare = np.uint32(rare | np.uint32(np.uint32(beyond) & np.uint32(size != 0)))
    if rare:
        _round_rare_bfloat16(sums, out)


@compiled
def _round_rare_bfloat16(sums, out):
    """Round subnormal numbers and NaN, which words cannot represent."""
    shift = 2.0 ** (-133 + 52)  # adding it rounds to multiples of 2**-133
    for j in range(out.size):
        size = abs(sums[j])
        sign = np.uint16(0x8000 if np.signbit(sums[j]) else 0)
        if size < 2.0**-126:
            out[j] = sign | np.uint16(((size + shift) - shift) * 2.0**133)
        elif size != size:
            out[j] = sign | np.uint16(0x7FC0)


def format_constants(form: FloatFormat) -> tuple[np.uint32, ...]:
    """Constants of a format: mantissa shift, width, first special, bias difference."""
    facts = (
        23 - form.mantissa,
        8 * form.dtype.itemsize,
        form.special,
        127 - form.bias,
    )
    return tuple(np.uint32(fact) for fact in facts)


@inlined
def widen_small(row, words, shift, width, special, bias):
    """Convert float16 or float8 bits to words; the constants are `format_constants`."""
    values = words.view(np.float32)
    magnitude = np.uint32((1 << (width - 1)) - 1)
    scale = np.float32(2.0 ** np.float64(bias))
    for j in range(row.size):
        words[j] = (np.uint32(row[j]) & magnitude) << shift
    for j in range(row.size):
        values[j] *= scale  # exact, and makes subnormal numbers normal
    for j in range(row.size):
        size = np.uint32(row[j]) & magnitude
        sign = (np.uint32(row[j]) & ~magnitude) << (np.uint32(32) - width)
        beyond = np.uint32(0x7F800000) if size >= special else np.uint32(0)
        words[j] |= sign | beyond


@inlined
def round_small(sums, words, out, shift, width, special, bias):
    """Round float64 sums to float16 or float8 bits, ties to even."""
    to_odd(sums, words.view(np.float32))
    # Adding ``step`` to a subnormal number leaves its multiple of the format's smallest
    # number in the low bits.
    step = np.float32(2.0 ** (np.float64(bias) + np.float64(shift) - 126))
    counted = np.empty(LANE, np.float32)
    values = words.view(np.float32)
    for j in range(out.size):
        counted[j] = abs(values[j]) + step
    counts = counted.view(np.uint32)
    base = np.uint32((bias + shift + np.uint32(1)) << np.uint32(23))
    normal = np.uint32((bias + np.uint32(1)) << np.uint32(23))
    half = np.uint32((1 << (shift - 1)) - 1)
    added = np.uint32(bias << (np.uint32(23) - shift))
    nan = np.uint32((1 << (width - 1)) - 1)
    for j in range(out.size):
        size = words[j] & np.uint32(0x7FFFFFFF)
        sign = (words[j] >> np.uint32(31)) << (width - np.uint32(1))
        even = (size >> shift) & np.uint32(1)
        rounded = (max(size, normal) + half + even) >> shift
        nearest = rounded - added if size >= normal else counts[j] - base
        nearest = special if nearest >= special else nearest
        nearest = nan if size > np.uint32(0x7F800000) else nearest
        out[j] = sign | nearest


def widen(stack: Array) -> Float64:
    """Members converted to float64, which is exact.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.

    Returns
    -------
    ndarray of the same shape, float64; ``stack`` itself if it is float64
    """
    form = FLOATS[stack.dtype]
    if form.mantissa >= 23:
        with np.errstate(invalid="ignore"):  # signaling NaN
            return np.asarray(stack, np.float64)
    out = np.empty(stack.shape)
    if not use_loops(stack.size):
        for row, values in zip(stack, out, strict=True):
            for start, stop in chunks(row.size, PIECE):
                values[start:stop] = widen_reference(row[start:stop])
        return out
    # Row by row: loops over the rows of a part of an array are not vectorized.
    for bits, values in zip(stack.view(form.bits), out, strict=True):
        if form.mantissa == 7:
            _widen_bfloat16(bits, values)
        else:
            _widen_small(bits, values, *format_constants(form))
    return out


def stack_members(members: Sequence[Array] | Array) -> Array:
    """Stack of members.

    Parameters
    ----------
    members : n_members arrays of shape (size,), float formats
        Members; an array of shape (n_members, size) is returned unchanged.

    Returns
    -------
    ndarray of shape (n_members, size)
        In the format of the members if they share one, else in float64.
    """
    if isinstance(members, np.ndarray):
        return members
    if len({member.dtype for member in members}) == 1:
        return np.asarray(members)
    return np.array([widen(member[None])[0] for member in members])


def widen_reference(values: Array) -> Float64:
    """NumPy reference of `widen`.

    Parameters
    ----------
    values : ndarray of shape (size,), a format below float32
        Values to convert.

    Returns
    -------
    ndarray of shape (size,), float64
    """
    form = FLOATS[values.dtype]
    with np.errstate(invalid="ignore"):  # signaling NaN
        out = values.astype(np.float64)
    missing = np.isnan(out)
    if missing.any():  # conversions differ in the bits that they keep of a NaN
        bits = values[missing].view(form.bits).astype(np.uint64)
        mantissa = (bits & ((1 << form.mantissa) - 1)) << (52 - form.mantissa)
        sign = bits >> (8 * form.dtype.itemsize - 1) << 63
        quiet = np.uint64(0x7FF8 << 48)
        out[missing] = (sign | quiet | mantissa).view(np.float64)
    return out


@compiled
def _widen_bfloat16(row, out):
    words = np.empty(LANE, np.uint32)
    values = words.view(np.float32)
    for start in range(0, row.size, LANE):
        part = out[start : start + LANE]
        widen_bfloat16(row[start : start + LANE], words)
        for j in range(part.size):
            part[j] = values[j]


@compiled
def _widen_small(row, out, shift, width, special, bias):
    words = np.empty(LANE, np.uint32)
    values = words.view(np.float32)
    for start in range(0, row.size, LANE):
        bits, part = row[start : start + LANE], out[start : start + LANE]
        widen_small(bits, words[: bits.size], shift, width, special, bias)
        for j in range(part.size):
            part[j] = values[j]
