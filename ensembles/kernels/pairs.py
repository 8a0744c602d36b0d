# mypy: disable-error-code="no-untyped-def"
"""Loops over the entries and rows of two members in float64."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64
from ensembles.kernels.gram import SUMS
from ensembles.kernels.jit import compiled, use_loops


def moved_towards(stack: Float64, limit: float) -> Float64:
    """Entries of the first member, moved towards the second by at most a limit.

    Parameters
    ----------
    stack : ndarray of shape (2, size), float64
        Members along axis 0.
    limit : float, not negative
        Largest change. Entries that differ by at most this much become those of the
        second member.

    Returns
    -------
    ndarray of shape (size,), float64
    """
    if use_loops(stack.size):
        out = np.empty(stack.shape[1])
        _move_towards(stack[0], stack[1], limit, out)
        return out
    first, second = stack
    difference = second - first
    is_near = (np.abs(difference) <= limit) | (first == second)
    moved = first + np.clip(difference, -limit, limit)
    return np.asarray(np.where(is_near, second, moved))


def row_products(rows: Float64) -> Float64:
    """Squared length of each row of two members, and their inner product.

    Parameters
    ----------
    rows : ndarray of shape (2, n_rows, row_size), float64
        Members along axis 0.

    Returns
    -------
    ndarray of shape (3, n_rows), float64
        Squares of the first member, squares of the second, products.
    """
    n_rows, row_size = rows.shape[1:]
    if use_loops(2 * rows.size):
        out = np.empty((3, n_rows))
        _row_products(rows[0], rows[1], out)
        return out
    # A row of zeros first, from which the loop starts.
    n_steps = -(-row_size // SUMS) + 1
    padded = np.zeros((2, n_rows, n_steps * SUMS))
    padded[:, :, SUMS : SUMS + row_size] = rows
    first, second = padded.reshape(2, n_rows, n_steps, SUMS)
    pairs = ((first, first), (second, second), (first, second))
    # One after the other, as in the loop; sum may add in pairs.
    sums = np.array([np.add.accumulate(a * b, axis=1)[:, -1] for a, b in pairs])
    return np.asarray(np.add.accumulate(sums, axis=2)[..., -1])


def combine_rows(rows: Float64, coefficients: Float64) -> Float64:
    """Linear combination of each row of two members.

    Parameters
    ----------
    rows : ndarray of shape (2, n_rows, row_size), float64
        Members along axis 0.
    coefficients : ndarray of shape (2, n_rows)
        Coefficient of each row of each member.

    Returns
    -------
    ndarray of shape (n_rows, row_size), float64
    """
    if use_loops(rows.size):
        out = np.empty(rows.shape[1:])
        _combine_rows(rows[0], rows[1], coefficients, out)
        return out
    first, second = coefficients[..., None]
    return np.asarray(first * rows[0] + second * rows[1])


def scaled_differences(rows: Float64, factors: Float64) -> Float64:
    """Distance of each entry of the first member from the second, times a factor.

    Parameters
    ----------
    rows : ndarray of shape (2, n_rows, row_size), float64
        Members along axis 0.
    factors : ndarray of shape (n_rows,)
        Factor of each row.

    Returns
    -------
    ndarray of shape (n_rows, row_size), float64
    """
    if use_loops(rows.size):
        out = np.empty(rows.shape[1:])
        _scale_differences(rows[0], rows[1], factors, out)
        return out
    return np.asarray(np.abs(rows[1] - rows[0]) * factors[:, None])


def replaced_outliers(rows: Float64, factors: Float64, threshold: float) -> Float64:
    """Second member where `scaled_differences` reach a threshold, else the first.

    Parameters
    ----------
    rows : ndarray of shape (2, n_rows, row_size), float64
        Members along axis 0.
    factors : ndarray of shape (n_rows,)
        Factor of each row.
    threshold : float
        Smallest scaled difference of an entry that is taken from the second member.

    Returns
    -------
    ndarray of shape (n_rows, row_size), float64
    """
    if use_loops(rows.size):
        out = np.empty(rows.shape[1:])
        _replace_outliers(rows[0], rows[1], factors, threshold, out)
        return out
    is_outlier = scaled_differences(rows, factors) >= threshold
    return np.asarray(np.where(is_outlier, rows[1], rows[0]))


@compiled
def _move_towards(first, second, limit, out):
    for j in range(out.size):
        x, y = first[j], second[j]
        difference = y - x
        step = limit if difference > limit else difference
        step = -limit if step < -limit else step
        out[j] = y if (abs(difference) <= limit) | (x == y) else x + step


@compiled
def _row_products(first, second, out):
    squares, others, products = np.empty(SUMS), np.empty(SUMS), np.empty(SUMS)
    row_size = first.shape[1]
    whole = row_size - row_size % SUMS
    for i in range(out.shape[1]):
        squares[:], others[:], products[:] = 0.0, 0.0, 0.0
        x, y = first[i], second[i]
        _add_products(x[:whole], x[:whole], squares)
        _add_products(y[:whole], y[:whole], others)
        _add_products(x[:whole], y[:whole], products)
        for k in range(row_size - whole):
            a, b = x[whole + k], y[whole + k]
            squares[k] += a * a
            others[k] += b * b
            products[k] += a * b
        out[:, i] = 0.0
        for k in range(SUMS):
            out[0, i] += squares[k]
            out[1, i] += others[k]
            out[2, i] += products[k]


@compiled
def _add_products(x, y, sums):
    """Add products to 16 running sums; their number is a multiple of 16."""
    # Unsigned: a loop with a possibly negative index is not vectorized.
    for start in range(np.uint64(0), np.uint64(x.size), np.uint64(SUMS)):
        for k in range(np.uint64(0), np.uint64(SUMS)):
            sums[k] += x[start + k] * y[start + k]


@compiled
def _combine_rows(first, second, coefficients, out):
    for i in range(len(out)):
        a, b = coefficients[0, i], coefficients[1, i]
        x, y, row = first[i], second[i], out[i]
        for j in range(row.size):
            row[j] = a * x[j] + b * y[j]


@compiled
def _scale_differences(first, second, factors, out):
    for i in range(len(out)):
        x, y, row = first[i], second[i], out[i]
        for j in range(row.size):
            row[j] = abs(y[j] - x[j]) * factors[i]


@compiled
def _replace_outliers(first, second, factors, threshold, out):
    for i in range(len(out)):
        x, y, row = first[i], second[i], out[i]
        for j in range(row.size):
            is_outlier = abs(y[j] - x[j]) * factors[i] >= threshold
            row[j] = y[j] if is_outlier else x[j]
