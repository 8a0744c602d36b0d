# mypy: disable-error-code="no-untyped-def"
"""Entries that members changed: by how many, and their sums."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.jit import compiled, use_loops
from ensembles.kernels.task_vectors.stored_members import (
    SPAN,
    merge_stored,
    read_delta,
    read_lane,
    write_lane,
)


def count_active(stack: Float64, base: Float64, epsilon: float) -> Array:
    """Number of entries that each member changed alone, and with others.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    epsilon : float, not negative
        A member changed an entry if it differs from the base by more. NaN differs.

    Returns
    -------
    ndarray of shape (2, n_members), int64
        Numbers of unique and of shared entries.
    """
    out = np.zeros((2, len(stack)), np.int64)
    if use_loops(4 * stack.size):
        _count_active(stack, base, epsilon, out)
        return out
    is_active = ~(np.abs(stack - base) <= epsilon)
    n_active = is_active.sum(axis=0)
    out[0] = (is_active & (n_active == 1)).sum(axis=1)
    out[1] = (is_active & (n_active > 1)).sum(axis=1)
    return out


def merge_active(
    stack: Array,
    base: Array,
    weights: Float64,
    unique_weights: Float64,
    epsilon: float,
) -> Array:
    """Base plus the changes of the members: a single one, or the mean of several.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    weights : ndarray of shape (n_members,)
        Factor of each member's change where several members changed an entry.
    unique_weights : ndarray of shape (n_members,)
        Factor of each member's change where it alone changed an entry.
    epsilon : float, not negative
        A member changed an entry if it differs from the base by more. NaN differs.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``
    """

    def loop(stack: Array, base: Array, start: int, out: Array) -> None:
        _merge_active(stack, base, weights, unique_weights, epsilon, out)

    def reference(stack: Array, base: Array, start: int, out: Array) -> None:
        sums, unique, n_active = np.zeros((3, base.size))
        for row, weight, alone in zip(stack, weights, unique_weights, strict=True):
            delta = row - base
            is_active = ~(np.abs(delta) <= epsilon)
            sums += np.where(is_active, weight * delta, 0.0)
            unique += np.where(is_active, alone * delta, 0.0)
            n_active += is_active
        shared = sums / np.maximum(n_active, 1.0)
        out[:] = base + np.where(n_active == 1, unique, shared)
        out[np.isnan(out)] = np.nan

    return merge_stored(loop, reference, stack, base, cost=4)


@compiled
def _count_active(stack, base, epsilon, out):
    n_active = np.zeros(base.size, np.int64)
    for i in range(len(stack)):
        row = stack[i]
        for j in range(base.size):
            n_active[j] += 0 if abs(row[j] - base[j]) <= epsilon else 1
    for i in range(len(stack)):
        row, unique, total = stack[i], 0, 0
        for j in range(base.size):
            is_active = 0 if abs(row[j] - base[j]) <= epsilon else 1
            unique += is_active if n_active[j] == 1 else 0
            total += is_active
        out[0, i], out[1, i] = unique, total - unique


@compiled
def _merge_active(stack, base, weights, unique_weights, epsilon, out):
    lanes, words = np.empty((5, SPAN)), np.empty(SPAN, np.uint32)
    origin, delta, sums, n_active = lanes[0], lanes[1], lanes[2], lanes[3]
    is_same = True
    for i in range(len(weights)):
        is_same &= weights[i] == unique_weights[i]
    # With one factor for both, a sum of one term is the unique change.
    unique = sums if is_same else lanes[4]
    for start in range(0, out.size, SPAN):
        stop = min(start + SPAN, out.size)
        read_lane(base[start:stop], origin)
        lanes[2:] = 0.0
        for i in range(len(weights)):
            read_delta(stack[i, start:stop], origin, delta)
            _add_active(delta, weights[i], epsilon, sums, n_active)
            if not is_same:
                _add_alone(delta, unique_weights[i], epsilon, unique)
        _add_to_base(origin, unique, n_active, sums)
        write_lane(sums, words, out[start:stop])


@compiled
def _add_active(deltas, weight, epsilon, sums, n_active):
    for j in range(deltas.size):
        delta = deltas[j]
        is_active = not abs(delta) <= epsilon
        sums[j] += weight * delta if is_active else 0.0
        n_active[j] += 1.0 if is_active else 0.0


@compiled
def _add_alone(deltas, weight, epsilon, unique):
    for j in range(deltas.size):
        delta = deltas[j]
        is_active = not abs(delta) <= epsilon
        unique[j] += weight * delta if is_active else 0.0


@compiled
def _add_to_base(origin, unique, n_active, sums):
    for j in range(sums.size):
        alone, total, n = unique[j], sums[j], n_active[j]  # loads before branches
        sums[j] = alone if n == 1.0 else total
        n_active[j] = n if n > 1.0 else 1.0
    np.divide(sums, n_active, sums)  # unlike /, it is vectorized
    for j in range(sums.size):
        value = origin[j] + sums[j]
        sums[j] = value if value == value else np.nan
