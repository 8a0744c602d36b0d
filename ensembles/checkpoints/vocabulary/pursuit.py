"""Sparse approximations of rows by rows of a table: orthogonal matching pursuit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.parallel import chunks, map_threads, resolve_n_threads

STEP = 4096  # points that are compared with the residuals at once
BLOCK = 16 << 20  # bytes of the orthogonal directions of one block of rows
DEPENDENT = 1e-10  # share of a point outside of those chosen before


class Approximation(NamedTuple):
    """Rows as sums of a few points.

    Parameters
    ----------
    points : ndarray of shape (n_rows, k), int64
        Points of each row, in the order in which they were chosen.
    coefficients : ndarray of shape (n_rows, k), float64
        Factor of each point.
    """

    points: np.ndarray[Any, Any]
    coefficients: Float64


def matching_pursuit(rows: Array, points: Array, k: int) -> Approximation:
    """Approximate rows by least squares over k points, chosen one after the other.

    Each step adds the point with the largest absolute inner product with the residual,
    and projects the row onto all points so far, in float64.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, width)
        Rows to approximate.
    points : ndarray of shape (n_points, width)
        Points to choose from.
    k : int
        Number of points of each row; at most ``n_points`` and ``width`` are used.

    Returns
    -------
    Approximation

    References
    ----------
    Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit: recursive
    function approximation with applications to wavelet decomposition".
    Goddard & Fernandes Neto (2025), "Training-free tokenizer transplantation via
    orthogonal matching pursuit", arXiv:2506.06607, section 3, which chooses points by
    the inner product without division by their norm.
    """
    k = min(k, *points.shape)
    step = max(BLOCK // (8 * k * points.shape[1]), 1)
    if not len(rows):
        return Approximation(np.zeros((0, k), np.int64), np.zeros((0, k)))
    blocks = [rows[start:stop] for start, stop in chunks(len(rows), step)]
    parts = map_threads(
        blocks,
        lambda: lambda block: _pursue(block.astype(np.float64), points, k),
        resolve_n_threads(None),
    )
    return Approximation(*map(np.concatenate, zip(*parts, strict=True)))


def _pursue(rows: Float64, points: Array, k: int) -> Approximation:
    n_rows, width = rows.shape
    directions = np.zeros((n_rows, k, width))  # orthonormal
    triangle = np.zeros((n_rows, k, k))  # points in terms of the directions
    chosen = np.zeros((n_rows, k), np.int64)
    residuals = rows.copy()
    for step in range(k):
        best = _most_correlated(residuals, points, chosen[:, :step])
        chosen[:, step] = best
        point = points[best].astype(np.float64)
        norms = np.linalg.norm(point, axis=1)
        before = directions[:, :step]
        for _ in range(2):  # the second time removes the rounding errors of the first
            shares = np.einsum("rsw,rw->rs", before, point)
            triangle[:, :step, step] += shares
            point -= np.einsum("rs,rsw->rw", shares, before)
        rest = np.linalg.norm(point, axis=1)
        is_new = rest > DEPENDENT * norms
        directions[is_new, step] = point[is_new] / rest[is_new, None]
        triangle[:, step, step] = np.where(is_new, rest, 1.0)
        direction = directions[:, step]
        shares = np.einsum("rw,rw->r", direction, residuals)
        residuals -= shares[:, None] * direction
    shares = np.einsum("rsw,rw->rs", directions, rows)
    return Approximation(chosen, np.linalg.solve(triangle, shares[..., None])[..., 0])


def _most_correlated(
    residuals: Float64, points: Array, chosen: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Point with the largest absolute inner product that is not chosen yet."""
    best = np.zeros(len(residuals), np.int64)
    largest = np.full(len(residuals), -1.0)
    for start, stop in chunks(len(points), STEP):
        scores = np.abs(residuals @ points[start:stop].astype(np.float64).T)
        row, column = np.nonzero((chosen >= start) & (chosen < stop))
        scores[row, chosen[row, column] - start] = -1.0
        index = scores.argmax(1)
        score = scores[np.arange(len(scores)), index]
        is_larger = score > largest
        best[is_larger], largest[is_larger] = start + index[is_larger], score[is_larger]
    return best
