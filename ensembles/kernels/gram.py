# mypy: disable-error-code="no-untyped-def"
"""Gram matrices and distances of members, identical for every division of the work."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import widen
from ensembles.kernels.jit import LANE, PIECE, compiled, use_loops
from ensembles.parallel import chunks

BLOCK = 65_536  # elements of a partial Gram matrix; blocks start at multiples of it
ROWS = 64  # elements of four rows of 16, added while the sums are in registers
SUMS = 16  # running sums in a block: element k goes to sum k % 16
LEAST, MOST = 2.0**-900, 2.0**1000  # range of sums of squares exact enough in float64


def gram(stack: Array) -> Float64:
    """Partial Gram matrices of the members, one for each block of elements.

    Their sum over the first axis, in its order, is the Gram matrix.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), n_members, n_members), float64
        A diagonal entry is 0 only if the member is 0, and infinite only if the member
        has an infinity. A sum of squares that underflows is below ``LEAST``, one that
        overflows is ``MOST``.
    """
    n_members, size = stack.shape
    if not use_loops(2 * n_members * stack.size):
        return gram_reference(stack)
    out = np.empty((-(-size // BLOCK), n_members, n_members))
    for index, start in enumerate(range(0, size, BLOCK)):
        stop = min(start + BLOCK, size)
        if FLOATS[stack.dtype].mantissa == 7:
            bits = stack.view(np.uint16)
            _gram_bfloat16(bits, bits[0, :0], start, stop, False, out[index])
        else:
            block = widen(stack[:, start:stop])
            _gram(block, out[index])
            _bound_squares(block, out[index])
    out[np.isnan(out)] = np.nan  # its bits depend on the order of operands
    return out


def difference_gram(stack: Array, base: Array) -> Float64:
    """Partial Gram matrices of the members' differences from a base.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), a float format
        Base of the members.

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), n_members, n_members), float64
        The differences are computed in float64, in pieces that fit the CPU caches. A
        square that overflows is infinite, and one that underflows is 0.
    """
    return _difference_gram(stack, base, is_diagonal=False)


def difference_squares(stack: Array, base: Array) -> Float64:
    """Partial sums of squares of the members' differences from a base.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), a float format
        Base of the members.

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), n_members), float64
        Diagonals of `difference_gram`.
    """
    partial = _difference_gram(stack, base, is_diagonal=True)
    return np.diagonal(partial, axis1=1, axis2=2)


def _difference_gram(stack: Array, base: Array, *, is_diagonal: bool) -> Float64:
    """Partial Gram matrices; other entries than the diagonal may be left out."""
    n_members, size = stack.shape
    out = np.zeros((-(-size // BLOCK), n_members, n_members))
    with_loops = use_loops(2 * n_members * stack.size)
    if with_loops and stack.dtype == base.dtype and FLOATS[base.dtype].mantissa == 7:
        bits, origin = stack.view(np.uint16), base.view(np.uint16)
        for index, start in enumerate(range(0, size, BLOCK)):
            stop = min(start + BLOCK, size)
            _gram_bfloat16(bits, origin, start, stop, is_diagonal, out[index])
    else:
        add = _add_rows if with_loops else _add_piece
        for index, start in enumerate(range(0, size, BLOCK)):
            sums = np.zeros((n_members, n_members, SUMS))
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                for first, last in chunks(min(BLOCK, size - start), PIECE):
                    part = slice(start + first, start + last)
                    add(widen(stack[:, part]) - widen(base[None, part]), sums)
                added = np.triu(np.add.accumulate(sums, axis=2)[:, :, -1])
            out[index] = added + np.triu(added, 1).T
    out[np.isnan(out)] = np.nan
    return out


def gram_reference(stack: Array) -> Float64:
    """NumPy reference of `gram`.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), n_members, n_members), float64
    """
    n_members, size = stack.shape
    out = np.empty((-(-size // BLOCK), n_members, n_members))
    step = max(PIECE // n_members // SUMS, 1) * SUMS
    for index, start in enumerate(range(0, size, BLOCK)):
        block = stack[:, start : start + BLOCK]
        sums = np.zeros((n_members, n_members, SUMS))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for first, last in chunks(block.shape[1], step):
                _add_piece(block[:, first:last].astype(np.float64), sums)
            # accumulate adds one after the other; sum may add in pairs.
            out[index] = np.add.accumulate(sums, axis=2)[:, :, -1]
        _bound_squares(block, out[index])
    out[np.isnan(out)] = np.nan
    return out


def _add_piece(piece: Float64, sums: Float64) -> None:
    """Add the products of a piece to the running sums, row after row of 16."""
    rows = _in_rows(piece)
    for a in range(len(rows)):
        for b in range(a, len(rows)):
            sums[a, b] = sums[b, a] = _added(sums[a, b], rows[a] * rows[b])


def _in_rows(piece: Float64) -> Float64:
    """Rows of 16 elements of each member, filled up with zeros."""
    rows = np.pad(piece, ((0, 0), (0, -piece.shape[1] % SUMS)))
    return rows.reshape(len(piece), -1, SUMS)


def _added(sums: Float64, rows: Float64) -> Float64:
    """Running sums plus each row, one after the other."""
    return np.asarray(np.add.accumulate(np.concatenate([sums[None], rows]))[-1])


def _bound_squares(stack: Array, out: Float64) -> None:
    for i, square in enumerate(np.diagonal(out).tolist()):
        if square not in (0, np.inf):
            continue
        with np.errstate(invalid="ignore"):  # signaling NaN
            row = stack[i].astype(np.float64)
        if square == 0 and row.any():
            out[i, i] = np.nextafter(0, 1)
        elif square == np.inf and np.isfinite(row).all():
            out[i, i] = MOST


def squared_distances(stack: Array) -> Float64:
    """Partial squared distances between the members, one matrix for each block.

    Differences are squared, not taken from a Gram matrix, so that distances between
    members that are nearly equal keep their digits. The sum over the first axis, in its
    order, has the squared distances.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.

    Returns
    -------
    ndarray of shape (ceil(size / BLOCK), n_members, n_members), float64
        An entry is 0 only if both members are equal, and infinite only if one has an
        infinity. A sum that underflows is below ``LEAST``, one that overflows is
        ``MOST``.
    """
    n_members, size = stack.shape
    out = np.zeros((-(-size // BLOCK), n_members, n_members))
    for index, start in enumerate(range(0, size, BLOCK)):
        stop = min(start + BLOCK, size)
        with_loops = use_loops(2 * n_members * n_members * (stop - start))
        if with_loops and FLOATS[stack.dtype].mantissa == 7:
            bits = stack.view(np.uint16)
            _squared_distances_bfloat16(bits, start, stop, out[index])
            continue  # no square leaves the range of float64
        block = np.ascontiguousarray(widen(stack[:, start:stop]))
        if with_loops:
            _squared_distances(block, out[index])
        else:
            out[index] = squared_distances_reference(block)
        _bound_distances(block, out[index])
    out[np.isnan(out)] = np.nan
    return out


def squared_distances_reference(block: Float64) -> Float64:
    """NumPy reference of `squared_distances` of a single block, without bounds.

    Parameters
    ----------
    block : ndarray of shape (n_members, size), float64
        A block of each member.

    Returns
    -------
    ndarray of shape (n_members, n_members), float64
    """
    n_members = len(block)
    out = np.zeros((n_members, n_members))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for a in range(n_members):
            for b in range(a):
                rows = _in_rows((block[a] - block[b])[None])[0]
                sums = _added(np.zeros(SUMS), rows * rows)
                out[a, b] = out[b, a] = np.add.accumulate(sums)[-1]
    return out


def _bound_distances(block: Float64, out: Float64) -> None:
    for a, b in zip(*np.tril_indices(len(block), -1), strict=True):
        square = out[a, b]
        if square == 0 and (block[a] != block[b]).any():
            out[a, b] = out[b, a] = np.nextafter(0, 1)
        elif square == np.inf and np.isfinite(block[[a, b]]).all():
            out[a, b] = out[b, a] = MOST


@compiled
def _squared_distances(block, out):
    size = block.shape[1]
    whole = size - size % ROWS
    rest = np.zeros((len(out), ROWS))
    for i in range(len(out)):
        for k in range(size - whole):
            rest[i, k] = block[i, whole + k]
    sums = np.empty(SUMS)
    for a in range(len(out)):
        for b in range(a):
            sums[:] = 0.0
            _add_squares(block[a, :whole], block[b, :whole], sums)
            _add_squares(rest[a], rest[b], sums)
            added = 0.0
            for k in range(SUMS):
                added += sums[k]
            out[a, b] = added
            out[b, a] = added


@compiled
def _squared_distances_bfloat16(stack, first, last, out):
    """Convert one lane at a time to float64, as `_gram_bfloat16`."""
    sums, values = np.zeros((len(out), len(out), SUMS)), np.empty((len(out), LANE))
    for start in range(first, last, LANE):
        for i in range(len(out)):
            _widen_lane(stack[i, start : start + LANE], values[i])
        for a in range(len(out)):
            for b in range(a):
                _add_squares(values[a], values[b], sums[b, a])
    _add_up(sums, out)


@compiled
def _add_squares(x, y, sums):
    """Add squared differences to 16 running sums; their number is a multiple of 64."""
    row, two, three = np.uint64(SUMS), np.uint64(2 * SUMS), np.uint64(3 * SUMS)
    for start in range(np.uint64(0), np.uint64(x.size), np.uint64(ROWS)):
        for k in range(np.uint64(0), row):
            j = start + k
            first, second = x[j] - y[j], x[j + row] - y[j + row]
            third, fourth = x[j + two] - y[j + two], x[j + three] - y[j + three]
            added = sums[k] + first * first
            added += second * second
            added += third * third
            sums[k] = added + fourth * fourth


@compiled
def _gram(stack, out):
    sums = np.zeros((len(out), len(out), SUMS))
    _add_rows(stack, sums)
    _add_up(sums, out)


@compiled
def _add_rows(stack, sums):
    """Add the products of members to their running sums."""
    size = stack.shape[1]
    whole = size - size % ROWS
    rest = np.zeros((len(stack), ROWS))
    for i in range(len(stack)):
        for k in range(size - whole):
            rest[i, k] = stack[i, whole + k]
    for a in range(len(stack)):
        for b in range(a, len(stack)):
            add_products(stack[a, :whole], stack[b, :whole], sums[a, b])
            add_products(rest[a], rest[b], sums[a, b])


@compiled
def _gram_bfloat16(stack, base, first, last, is_diagonal, out):
    """Convert one lane at a time to float64, so that the operands stay in cache.

    An empty base is zero.
    """
    sums = np.zeros((len(out), len(out), SUMS))
    values, origin = np.zeros((len(out), LANE)), np.zeros(LANE)
    for start in range(first, last, LANE):
        size = min(LANE, last - start)
        if base.size:
            _widen_lane(base[start : start + size], origin)
        for i in range(len(out)):
            _widen_lane(stack[i, start : start + size], values[i])
            if base.size:
                _subtract(values[i], origin)
        for a in range(len(out)):
            for b in range(a, a + 1 if is_diagonal else len(out)):
                add_products(values[a], values[b], sums[a, b])
    _add_up(sums, out)


@compiled
def _widen_lane(row, lane):
    """Convert bits of bfloat16, followed by zeros."""
    for j in range(row.size):
        word = np.uint32(np.uint32(row[j]) << np.uint32(16))
        lane[j] = word.view(np.float32)
    for j in range(row.size, LANE):
        lane[j] = 0.0


@compiled
def _subtract(lane, origin):
    for j in range(lane.size):
        lane[j] -= origin[j]


@compiled
def add_products(x, y, sums):
    """Add products to 16 running sums; their number is a multiple of 64."""
    # Unsigned: a loop with a possibly negative index is not vectorized.
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
