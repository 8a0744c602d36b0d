# mypy: disable-error-code="no-untyped-def"
"""Merges of members as they are stored: converted, merged and rounded in lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ensembles._typing import Array
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import narrow, round_bfloat16, widen
from ensembles.kernels.jit import LANE, compiled, use_loops
from ensembles.parallel import chunks

SPAN = LANE  # elements per step of a loop: some rows in float64, which stay in cache
PIECE = 16 * LANE  # elements that are converted at a time
DIRECT = (7, 23, 52)  # mantissa bits of the formats that loops read and write

Merge = Callable[[Array, Array, int, Array], Any]


def merge_stored(
    loop: Merge,
    reference: Merge,
    stack: Array,
    base: Array,
    *,
    cost: int = 8,
    unit: int = 1,
) -> Array:
    """Merge members of any float format and round the result once.

    Parameters
    ----------
    loop : callable (stack, base, start, out)
        Compiled loop, which reads members and writes results with `read_lane` and
        `write_lane`. ``start`` is the index of the first element.
    reference : callable (stack, base, start, out)
        NumPy reference of the loop, for float64.
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    cost : int, default=8
        Time of NumPy for an element of a member, in units of 5 ns.
    unit : int, default=1
        Pieces have a multiple of this number of elements.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``
    """
    out = np.empty(base.shape, base.dtype)
    with_loops = use_loops(cost * stack.size)
    if with_loops and is_read(base.dtype):
        loop(as_read(stack), as_read(base), 0, as_read(out))
        return out
    for start, stop in chunks(base.size, max(PIECE // unit, 1) * unit):
        members = np.ascontiguousarray(widen(stack[:, start:stop]))
        origin, values = widen(base[None, start:stop])[0], np.empty(stop - start)
        (loop if with_loops else reference)(members, origin, start, values)
        out[start:stop] = narrow(values, base.dtype)
    return out


def is_read(dtype: np.dtype[Any]) -> bool:
    """Whether loops read a float format as it is stored.

    Parameters
    ----------
    dtype : dtype, one of ``FLOATS``
        The format.

    Returns
    -------
    bool
    """
    return FLOATS[dtype].mantissa in DIRECT


def as_read(values: Array) -> Array:
    """Bits of bfloat16; float32 and float64 as they are.

    Parameters
    ----------
    values : ndarray
        Stored numbers of a format that loops read.

    Returns
    -------
    ndarray of the same shape
    """
    return values.view(np.uint16) if values.itemsize == 2 else values


@compiled
def read_lane(row, lane):
    """Convert stored numbers to float64: bits of bfloat16, float32 or float64."""
    if row.itemsize == 2:  # decided when the loop is compiled
        for j in range(row.size):
            word = np.uint32(np.uint32(row[j]) << np.uint32(16))
            lane[j] = word.view(np.float32)
    else:
        for j in range(row.size):
            lane[j] = row[j]


@compiled
def read_delta(row, origin, lane):
    """Convert stored numbers to float64, and subtract those of the base."""
    if row.itemsize == 2:
        for j in range(row.size):
            word = np.uint32(np.uint32(row[j]) << np.uint32(16))
            lane[j] = np.float64(word.view(np.float32)) - origin[j]
    else:
        for j in range(row.size):
            lane[j] = np.float64(row[j]) - origin[j]


@compiled
def write_lane(lane, words, out):
    """Round float64 numbers once; ``words`` is scratch space of 32 bits each."""
    if out.itemsize == 2:
        round_bfloat16(lane[: out.size], words[: out.size], out)
    else:
        for j in range(out.size):
            out[j] = lane[j]
