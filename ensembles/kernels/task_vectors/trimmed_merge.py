# mypy: disable-error-code="no-untyped-def"
"""Base plus trimmed task vectors that agree with an elected sign, rounded once."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import narrow, round_bfloat16, widen, widen_bfloat16
from ensembles.kernels.jit import LANE, compiled, use_loops
from ensembles.kernels.task_vectors.magnitudes import deltas_between, upper_limit
from ensembles.kernels.task_vectors.sign_election import (
    SIGNS,
    Sign,
    elected_sum,
    elected_sum_loop,
    terms_of,
)
from ensembles.parallel import chunks

SPAN = 4 * LANE  # elements per step: deltas of some members, which stay in the L2 cache
PIECE = 16 * LANE  # elements that are converted at a time


def merge_trimmed(
    stack: Array,
    weights: Float64,
    base: Array,
    interval: tuple[Float64, Float64] | None,
    *,
    scale: float = 1.0,
    sign: Sign = "mass",
    normalize: bool | Literal["count"] = True,
    zero_sum: int = 0,
) -> Array:
    """Base plus the scaled `elected_sum` of trimmed task vectors.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    interval : tuple of two ndarray of shape (n_members,), or None
        Smallest and largest magnitude of each member, see `deltas_between`; None keeps
        all deltas.
    scale : float, default=1.0
        Factor of the sum.
    sign : {"mass", "unweighted_mass", "count"}, default="mass"
        How a sign is elected, see `elected_sum`.
    normalize : bool or "count", default=True
        Divisor of the sum, see `elected_sum`.
    zero_sum : {-1, 0, 1}, default=0
        Sign that is elected in a zero sum; 0 makes the sum 0.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``

    Raises
    ------
    ValueError
        If ``sign`` or ``normalize`` is unknown.
    """
    if interval is None:
        interval = np.zeros(len(stack)), np.full(len(stack), np.inf)
    low, high = interval
    out = np.empty(base.shape, base.dtype)
    if FLOATS[base.dtype].mantissa == 7 and use_loops(8 * stack.size):
        rows = np.flatnonzero(weights)
        bits = stack.view(np.uint16)
        bits = bits if len(rows) == len(stack) else bits[rows]
        terms = terms_of(weights[rows], sign, normalize)
        ends = low[rows], upper_limit(high)[rows]
        arguments = (terms, SIGNS.index(sign), zero_sum, scale, out.view(np.uint16))
        _merge_bfloat16(bits, base.view(np.uint16), *ends, *arguments)
        return out
    for start, stop in chunks(base.size, PIECE):
        members = np.ascontiguousarray(widen(stack[:, start:stop]))
        origin = widen(base[None, start:stop])[0]
        deltas = deltas_between(members, origin, low, high)
        options = {"sign": sign, "normalize": normalize, "zero_sum": zero_sum}
        merged = elected_sum(deltas, weights, **options)  # type: ignore[arg-type]
        out[start:stop] = narrow(merged * scale + origin, base.dtype)
    return out


@compiled
def _merge_bfloat16(stack, base, low, limit, terms, votes, zero_sum, scale, out):
    deltas, merged, origin = (
        np.empty((len(stack), SPAN)),
        np.empty(SPAN),
        np.empty(SPAN),
    )
    words = np.empty(SPAN, np.uint32)
    values = words.view(np.float32)
    for start in range(0, out.size, SPAN):
        stop = min(start + SPAN, out.size)
        size = stop - start
        widen_bfloat16(base[start:stop], words[:size])
        for j in range(size):
            origin[j] = values[j]
        for i in range(len(stack)):
            widen_bfloat16(stack[i, start:stop], words[:size])
            _trim(values[:size], origin, low[i], limit[i], deltas[i])
        sums = merged[:size]
        # Whole rows: slices of columns count as strided, and are not vectorized.
        elected_sum_loop(deltas, terms, votes, zero_sum, sums)
        for j in range(size):
            sums[j] = sums[j] * scale + origin[j]
        round_bfloat16(sums, words[:size], out[start:stop])


@compiled
def _trim(values, origin, low, limit, deltas):
    for j in range(values.size):
        delta = np.float64(values[j]) - origin[j]
        size = abs(delta)
        delta = 0.0 if size < low else delta
        deltas[j] = 0.0 if size >= limit else delta
