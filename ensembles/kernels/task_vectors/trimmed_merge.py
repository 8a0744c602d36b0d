# mypy: disable-error-code="no-untyped-def"
"""Base plus merged task vectors that are trimmed, rounded once."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.jit import compiled
from ensembles.kernels.task_vectors.magnitudes import deltas_between, upper_limit
from ensembles.kernels.task_vectors.sign_election import (
    N_SUMS,
    Sign,
    elected_sum_loop,
    elected_sum_reference,
    terms_of,
    votes_of,
)
from ensembles.kernels.task_vectors.stored_members import (
    SPAN,
    merge_stored,
    read_delta,
    read_lane,
    write_lane,
)


def merge_trimmed(
    stack: Array,
    weights: Float64,
    base: Array,
    interval: tuple[Float64, Float64] | None,
    *,
    scale: float = 1.0,
    divisor: float = 1.0,
    sign: Sign | None = "mass",
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
    divisor : float, not 0, default=1.0
        Divisor of the sum.
    sign : {"mass", "unweighted_mass", "count"} or None, default="mass"
        How a sign is elected, see `elected_sum`; None elects none.
    normalize : bool or "count", default=True
        Divisor of each element of the sum, see `elected_sum`.
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
    low, high = interval or (np.zeros(len(stack)), np.full(len(stack), np.inf))
    rows = np.flatnonzero(weights)
    stack = stack if len(rows) == len(stack) else stack[rows]
    low, high = low[rows], high[rows]
    how = terms_of(weights[rows], sign, normalize), votes_of(sign), zero_sum
    limit = upper_limit(high)

    def loop(stack: Array, base: Array, start: int, out: Array) -> None:
        _merge_trimmed(stack, base, low, limit, *how, scale, divisor, out)

    def reference(stack: Array, base: Array, start: int, out: Array) -> None:
        deltas = deltas_between(stack, base, low, high)
        elected_sum_reference(deltas, *how, out)
        add_scaled_reference(out, scale, divisor, base)

    return merge_stored(loop, reference, stack, base)


@compiled
def _merge_trimmed(
    stack, base, low, limit, terms, votes, zero_sum, scale, divisor, out
):
    deltas, lanes = np.empty((len(stack), SPAN)), np.empty((2, SPAN))
    words, sums = np.empty(SPAN, np.uint32), np.empty((8, N_SUMS))
    origin, merged = lanes[0], lanes[1]
    for start in range(0, out.size, SPAN):
        stop = min(start + SPAN, out.size)
        read_lane(base[start:stop], origin)
        for i in range(len(stack)):
            row = deltas[i, : stop - start]
            read_delta(stack[i, start:stop], origin, row)
            _trim(row, low[i], limit[i])
        # Whole rows: slices of columns count as strided, and are not vectorized.
        elected_sum_loop(deltas, terms, votes, zero_sum, sums, merged[: stop - start])
        add_scaled(merged[: stop - start], scale, divisor, origin)
        write_lane(merged, words, out[start:stop])


@compiled
def _trim(row, low, limit):
    for j in range(row.size):
        delta = row[j]
        size = abs(delta)
        delta = 0.0 if size < low else delta
        row[j] = 0.0 if size >= limit else delta


def add_scaled_reference(
    merged: Float64, scale: float, divisor: float, base: Float64
) -> None:
    """Replace a sum by the base plus the scaled sum, with the same bits for each NaN.

    Parameters
    ----------
    merged : ndarray of shape (size,), float64
        Sum, which is replaced.
    scale : float
        Its factor.
    divisor : float, not 0
        Its divisor.
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    """
    merged[:] = merged * scale / divisor + base
    merged[np.isnan(merged)] = np.nan


@compiled
def add_scaled(merged, scale, divisor, base):
    """Compiled loop of `add_scaled_reference`."""
    if divisor != 1.0:
        for j in range(merged.size):
            merged[j] = merged[j] * scale / divisor
    else:
        for j in range(merged.size):
            merged[j] *= scale
    for j in range(merged.size):
        value = merged[j] + base[j]
        merged[j] = value if value == value else np.nan
