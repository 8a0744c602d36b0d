# mypy: disable-error-code="no-untyped-def"
"""Entries that members changed in different ways: by how many, and how differently."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.jit import LANE, compiled, use_loops

EPS = 2.0**-52


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
    stack: Float64,
    base: Float64,
    weights: Float64,
    unique_weights: Float64,
    epsilon: float,
) -> Float64:
    """Base plus the changes of the members: a single one, or the mean of several.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    weights : ndarray of shape (n_members,)
        Factor of each member's change where several members changed an entry.
    unique_weights : ndarray of shape (n_members,)
        Factor of each member's change where it alone changed an entry.
    epsilon : float, not negative
        A member changed an entry if it differs from the base by more. NaN differs.

    Returns
    -------
    ndarray of shape (size,), float64
    """
    out = np.empty(base.size)
    if use_loops(4 * stack.size):
        _merge_active(stack, base, weights, unique_weights, epsilon, out)
        return out
    sums, unique, n_active = np.zeros((3, base.size))
    for row, weight, alone in zip(stack, weights, unique_weights, strict=True):
        delta = row - base
        is_active = ~(np.abs(delta) <= epsilon)
        sums += np.where(is_active, weight * delta, 0.0)
        unique += np.where(is_active, alone * delta, 0.0)
        n_active += is_active
    shared = sums / np.maximum(n_active, 1.0)
    return np.asarray(base + np.where(n_active == 1, unique, shared))


def variances(stack: Float64) -> Float64:
    """Variance of each entry over the members, zero only if all are equal.

    The mean square of the differences of all pairs, which do not cancel.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.

    Returns
    -------
    ndarray of shape (size,), float64
    """
    out = np.zeros(stack.shape[1])
    if use_loops(stack.size * len(stack)):
        _variances(stack, out)
        return out
    for first, row in enumerate(stack):
        for other in stack[first + 1 :]:
            difference = row - other
            out += difference * difference
    return np.asarray(out / max(len(stack) ** 2, 1))


def merge_majority(
    stack: Float64, base: Float64, coefficients: Float64, *, normalize: bool
) -> Float64:
    """Base plus the weighted changes that have the sign of the sum of changes.

    A sum that is zero up to the rounding of its terms, within ``n_members * 2**-52``
    of their magnitudes, is positive, so that the order of the members is irrelevant.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    coefficients : ndarray of shape (n_members,), not negative
        Factor of each member's changes.
    normalize : bool
        Whether the sum is divided by the coefficients of the members that have the sign
        at an entry.

    Returns
    -------
    ndarray of shape (size,), float64
        NaN where a change is NaN.
    """
    slack = len(stack) * EPS
    out = np.empty(base.size)
    if use_loops(4 * stack.size):
        _merge_majority(stack, base, coefficients, normalize, slack, out)
        return out
    totals, sizes, sums, shares = np.zeros((4, base.size))
    for row in stack:
        totals += row - base
        sizes += np.abs(row - base)
    sign = np.where(totals >= -slack * sizes, 1.0, -1.0)
    for row, coefficient in zip(stack, coefficients, strict=True):
        delta = row - base
        is_counted = sign * delta > 0
        sums += np.where(is_counted, coefficient * delta, 0.0)
        shares += np.where(is_counted, coefficient, 0.0)
    if normalize:
        sums /= np.where(shares == 0, 1.0, shares)
    return np.where(np.isnan(totals), np.nan, base + sums)


@compiled
def _merge_majority(stack, base, coefficients, normalize, slack, out):
    lanes = np.empty((3, LANE))
    sign, sizes, shares = lanes[0], lanes[1], lanes[2]
    for start in range(0, base.size, LANE):
        size = min(LANE, base.size - start)
        origin, sums = base[start : start + size], out[start : start + size]
        for j in range(size):
            sign[j], sizes[j], shares[j], sums[j] = 0.0, 0.0, 0.0, 0.0
        for i in range(len(stack)):
            row = stack[i, start : start + size]
            for j in range(size):
                sign[j] += row[j] - origin[j]
                sizes[j] += abs(row[j] - origin[j])
        for j in range(size):
            elected = 1.0 if sign[j] >= -slack * sizes[j] else -1.0
            sign[j] = elected if sign[j] == sign[j] else np.nan
        for i in range(len(stack)):
            row, coefficient = stack[i, start : start + size], coefficients[i]
            for j in range(size):
                delta = row[j] - origin[j]
                is_counted = sign[j] * delta > 0
                sums[j] += coefficient * delta if is_counted else 0.0
                shares[j] += coefficient if is_counted else 0.0
        for j in range(size):
            share = shares[j] if normalize and shares[j] != 0.0 else 1.0
            value = origin[j] + sums[j] / share
            sums[j] = value if sign[j] == sign[j] else np.nan


@compiled
def _variances(stack, out):
    for first in range(len(stack)):
        for second in range(first + 1, len(stack)):
            row, other = stack[first], stack[second]
            for j in range(out.size):
                difference = row[j] - other[j]
                out[j] += difference * difference
    divisor = np.float64(max(len(stack) ** 2, 1))
    for j in range(out.size):
        out[j] /= divisor


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
    n_active = np.zeros(base.size)
    unique = np.zeros(base.size)
    out[:] = 0.0
    for i in range(len(weights)):
        row, weight, alone = stack[i], weights[i], unique_weights[i]
        for j in range(out.size):
            delta = row[j] - base[j]
            is_active = not abs(delta) <= epsilon
            out[j] += weight * delta if is_active else 0.0
            unique[j] += alone * delta if is_active else 0.0
            n_active[j] += 1.0 if is_active else 0.0
    for j in range(out.size):
        shared = out[j] / max(n_active[j], 1.0)
        out[j] = base[j] + (unique[j] if n_active[j] == 1.0 else shared)
