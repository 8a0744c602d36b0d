# mypy: disable-error-code="no-untyped-def"
"""Sums over the differences of two arrays, the same for every division of the work."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import widen, widen_bfloat16
from ensembles.kernels.jit import LANE, PIECE, compiled, use_loops
from ensembles.parallel import chunks

BLOCK = 65_536  # elements of a row of sums; blocks start at multiples of it
ROWS = 64  # elements of four rows of 16, added while the sums are in registers
SUMS = 16  # running sums in a block: element k goes to sum k % 16
LEAST = 2.0**-900  # a smaller sum of squares may have lost bits to underflow
WIDE = (np.float32, np.float64)  # dtypes that loops read as they are
N_COLUMNS = 7  # fields of DifferenceSums


class DifferenceSums(NamedTuple):
    """Sums over the entries of two arrays a and b that are finite in both.

    Parameters
    ----------
    aa, bb, ab : float
        Inner products, in units of ``4**exponent``.
    dd : float
        Sum of squares of b - a, in units of ``4**exponent``.
    largest : float
        Largest absolute value of b - a.
    exponent : float
        Integer; 0 unless squares leave the range of float64.
    n_nonfinite : float
        Number of entries that are NaN or infinite in a or b, and left out.
    """

    aa: float
    bb: float
    ab: float
    dd: float
    largest: float
    exponent: float
    n_nonfinite: float


def difference_sums(a: Array, b: Array) -> Float64:
    """Sums over two arrays and their difference, one row for each block of elements.

    Parameters
    ----------
    a, b : ndarray of shape (size,), numbers or booleans
        Arrays to compare, which may have different dtypes.

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), 7), float64
        Fields of `DifferenceSums`.
    """
    out = np.zeros((-(-a.size // BLOCK), N_COLUMNS))
    if not use_loops(2 * a.size):
        for row, (start, stop) in zip(out, chunks(a.size, BLOCK), strict=True):
            row[:5] = sums_reference(a[start:stop], b[start:stop])
    elif a.dtype == b.dtype and a.dtype in FLOATS and FLOATS[a.dtype].mantissa == 7:
        _fill_bfloat16(a.view(np.uint16), b.view(np.uint16), out)
    else:
        _fill_wide(*(v if v.dtype in WIDE else _as_float64(v) for v in (a, b)), out)
    out[:, :4] += 0.0  # no negative zeros, which depend on the order of additions
    is_safe = np.isfinite(out).all(axis=1) & (out[:, :2] >= LEAST).all(axis=1)
    for index in np.flatnonzero(~is_safe).tolist():
        start = index * BLOCK
        _add_again(a[start : start + BLOCK], b[start : start + BLOCK], out[index])
    return out


def total(rows: Float64) -> DifferenceSums:
    """Sum of rows, in their order.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, 7), float64
        Fields of `DifferenceSums`.

    Returns
    -------
    DifferenceSums
    """
    if not len(rows):
        return DifferenceSums(0, 0, 0, 0, 0, 0, 0)
    exponent = rows[:, 5].max()
    scale = np.ldexp(1.0, (2 * (rows[:, 5] - exponent)).astype(np.int64))
    # add.accumulate adds row after row; sum may add pairwise.
    products = np.add.accumulate(rows[:, :4] * scale[:, None])[-1]
    largest, n_nonfinite = rows[:, 4].max(), rows[:, 6].sum()
    return DifferenceSums(*map(float, (*products, largest, exponent, n_nonfinite)))


def _add_again(a: Array, b: Array, out: Float64) -> None:
    """Fill the row of a block with NaN, infinity, or squares beyond float64."""
    x, y = _as_float64(a), _as_float64(b)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
    out[:5], out[6] = sums_reference(x, y), a.size - np.count_nonzero(finite)
    top = max(np.abs(x).max(), np.abs(y).max())
    if top > 0 and not (np.isfinite(out).all() and out[:2].max() > LEAST):
        out[5] = np.frexp(top)[1]
        power = -int(out[5])
        out[:5] = sums_reference(np.ldexp(x, power), np.ldexp(y, power))
        with np.errstate(over="ignore"):
            out[4] = np.ldexp(out[4], -power)


def _as_float64(values: Array) -> Float64:
    if values.dtype in FLOATS:
        return np.asarray(widen(values[None])[0])
    return np.asarray(values, np.float64)


def sums_reference(a: Array, b: Array) -> Float64:
    """NumPy reference of the compiled loops.

    Parameters
    ----------
    a, b : ndarray of shape (size,), numbers or booleans
        Block of at most 65,536 elements.

    Returns
    -------
    ndarray of shape (5,), float64
        The first five fields of `DifferenceSums`, without regard to NaN and infinity.
    """
    sums, top = np.zeros((4, SUMS)), 0.0
    rows = np.empty((1 + PIECE // SUMS, SUMS))  # the running sums, then products
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start, stop in chunks(a.size, PIECE):
            x, y = _as_rows(a[start:stop]), _as_rows(b[start:stop])
            d = y - x
            for total, (p, q) in zip(
                sums, ((x, x), (y, y), (x, y), (d, d)), strict=True
            ):
                rows[0] = total
                np.multiply(p, q, out=rows[1 : 1 + len(p)])
                # Row after row; along the last axis, NumPy adds pairwise.
                total[:] = np.add.reduce(rows[: 1 + len(p)], axis=0)
            top = np.maximum(top, np.abs(d).max())
        products = np.add.accumulate(sums, axis=1)[:, -1]
        return np.array([*products, top])


def _as_rows(values: Array) -> Float64:
    """Rows of a piece in float64, the last one padded with zeros."""
    wide = _as_float64(values)
    if wide.size % SUMS:
        wide = np.pad(wide, (0, -wide.size % SUMS))
    return wide.reshape(-1, SUMS)


@compiled
def _fill_wide(a, b, out):
    sums = np.zeros((5, SUMS))
    for index in range(out.shape[0]):
        sums[:] = 0.0
        start, stop = index * BLOCK, min(a.size, (index + 1) * BLOCK)
        x, y = a[start:stop], b[start:stop]
        _add_wide(x, y, sums[0], sums[1], sums[2], sums[3], sums[4])
        _add_up(sums, out[index])


@compiled
def _fill_bfloat16(a, b, out):
    """Convert one lane at a time, so that the operands stay in cache."""
    sums = np.zeros((5, SUMS))
    x, y = np.empty(LANE, np.uint32), np.empty(LANE, np.uint32)
    for index in range(out.shape[0]):
        sums[:] = 0.0
        last = min(a.size, (index + 1) * BLOCK)
        for start in range(index * BLOCK, last, LANE):
            size = min(LANE, last - start)
            widen_bfloat16(a[start : start + size], x)
            widen_bfloat16(b[start : start + size], y)
            v, w = x[:size].view(np.float32), y[:size].view(np.float32)
            _add_wide(v, w, sums[0], sums[1], sums[2], sums[3], sums[4])
        _add_up(sums, out[index])


@compiled
def _add_up(sums, out):
    for i in range(4):
        added = 0.0
        for k in range(SUMS):
            added += sums[i, k]
        out[i] = added
    for k in range(SUMS):
        out[4] = max(out[4], sums[4, k])


@compiled
def _add_wide(a, b, aa, bb, ab, dd, top):
    """Add the products of 16 running sums, four rows of elements at a time."""
    # Unsigned: a loop with a possibly negative index is not vectorized.
    row, two, three = np.uint64(SUMS), np.uint64(2 * SUMS), np.uint64(3 * SUMS)
    whole = a.size - a.size % ROWS
    for start in range(np.uint64(0), np.uint64(whole), np.uint64(ROWS)):
        for k in range(np.uint64(0), row):
            j = start + k
            x0, x1 = np.float64(a[j]), np.float64(a[j + row])
            x2, x3 = np.float64(a[j + two]), np.float64(a[j + three])
            y0, y1 = np.float64(b[j]), np.float64(b[j + row])
            y2, y3 = np.float64(b[j + two]), np.float64(b[j + three])
            d0, d1, d2, d3 = y0 - x0, y1 - x1, y2 - x2, y3 - x3
            aa[k] = aa[k] + x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3
            bb[k] = bb[k] + y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3
            ab[k] = ab[k] + x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3
            dd[k] = dd[k] + d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
            top[k] = max(max(abs(d0), abs(d1)), max(abs(d2), abs(d3), top[k]))
    for j in range(whole, a.size):
        k = j % SUMS
        x, y = np.float64(a[j]), np.float64(b[j])
        d = y - x
        aa[k] += x * x
        bb[k] += y * y
        ab[k] += x * y
        dd[k] += d * d
        top[k] = max(top[k], abs(d))
