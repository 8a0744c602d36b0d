# mypy: disable-error-code="no-untyped-def"
"""Inner products of members with each other, the same however the work is cut."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import widened
from ensembles.kernels.jit import LANE, compiled

BLOCK = 65_536  # elements added up before their sum joins the others, by position
ROWS = 64  # four rows of 16 are added while their sums are at hand
SUMS = 16  # running sums in a block: element k goes to sum k % 16
LEAST, MOST = 2.0**-900, 2.0**1000  # sums of squares that lose nothing in float64


def gram(stack: Array) -> Float64:
    """Inner products of all pairs of members, block by block.

    Added over the first axis, in its order, they are the Gram matrix.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), n_members, n_members), float64
        The square of a member is 0 only if the member is, and infinite only if an
        entry is: where float64 cannot hold it, it is below ``LEAST`` or at ``MOST``.
    """
    n_members, size = stack.shape
    out = np.empty((-(-size // BLOCK), n_members, n_members))
    for index, start in enumerate(range(0, size, BLOCK)):
        stop = min(start + BLOCK, size)
        if FLOATS[stack.dtype].mantissa == 7:
            _gram_bfloat16(stack.view(np.uint16), start, stop, out[index])
        else:
            block = widened(stack[:, start:stop])
            _gram(block, out[index])
            _bound_squares(block, out[index])
    return out


def gram_line(stack: Array) -> Float64:
    """Numpy line of `gram`.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), n_members, n_members), float64
    """
    blocks = []
    for start in range(0, stack.shape[1], BLOCK):
        block = stack[:, start : start + BLOCK].astype(np.float64)
        block = np.pad(block, ((0, 0), (0, -block.shape[1] % SUMS)))
        rows = block.reshape(len(block), -1, SUMS)
        products = rows[:, None] * rows[None]
        # An accumulation adds one row after the other; a sum may add in pairs.
        sums = np.add.accumulate(products, axis=2)[:, :, -1]
        out = np.add.accumulate(sums, axis=2)[:, :, -1]
        _bound_squares(block, out)
        blocks.append(out)
    return np.array(blocks).reshape(-1, len(stack), len(stack))


def _bound_squares(stack: Array, out: Float64) -> None:
    for i, square in enumerate(np.diagonal(out).tolist()):
        if square == 0 and stack[i].any():
            out[i, i] = np.nextafter(0, 1)
        elif square == np.inf and np.isfinite(stack[i]).all():
            out[i, i] = MOST


@compiled
def _gram(stack, out):
    size = stack.shape[1]
    whole = size - size % ROWS
    sums = np.zeros((len(out), len(out), SUMS))
    rest = np.zeros((len(out), ROWS))
    for i in range(len(out)):
        for k in range(size - whole):
            rest[i, k] = stack[i, whole + k]
    for a in range(len(out)):
        for b in range(a, len(out)):
            _add_products(stack[a, :whole], stack[b, :whole], sums[a, b])
            _add_products(rest[a], rest[b], sums[a, b])
    _add_up(sums, out)


@compiled
def _gram_bfloat16(stack, first, last, out):
    """Widened a lane at a time, so that what is multiplied is near."""
    sums = np.zeros((len(out), len(out), SUMS))
    values = np.zeros((len(out), LANE))
    for start in range(first, last, LANE):
        size = min(LANE, last - start)
        for i in range(len(out)):
            row, lane = stack[i, start : start + size], values[i]
            for j in range(size):
                word = np.uint32(np.uint32(row[j]) << np.uint32(16))
                lane[j] = word.view(np.float32)
            for j in range(size, LANE):
                lane[j] = 0.0
        for a in range(len(out)):
            for b in range(a, len(out)):
                _add_products(values[a], values[b], sums[a, b])
    _add_up(sums, out)


@compiled
def _add_products(x, y, sums):
    """Add to 16 sums; the number of products is a multiple of 64."""
    # Unsigned: an index that may be negative is not vectorised.
    row, two, three = np.uint64(SUMS), np.uint64(2 * SUMS), np.uint64(3 * SUMS)
    for start in range(np.uint64(0), np.uint64(x.size), np.uint64(ROWS)):
        for k in range(np.uint64(0), row):
            j = start + k
            added = sums[k] + x[j] * y[j]
            added += x[j + row] * y[j + row]
            added += x[j + two] * y[j + two]
            sums[k] = added + x[j + three] * y[j + three]


@compiled
def _add_up(sums, out):
    for a in range(len(out)):
        for b in range(a, len(out)):
            added = 0.0
            for k in range(SUMS):
                added += sums[a, b, k]
            out[a, b] = added
            out[b, a] = added
