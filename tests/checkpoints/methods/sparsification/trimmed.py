"""Second opinions on trimmed task vectors: plain sorts, and peers' numbers."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array, Float64

# Members whose differences from the base have distinct magnitudes, but for zeros.
BASE = np.array([1, -2, 0.5, 3, 0, -1, 2, 4, -3, 0.25])
DELTAS = np.array(
    [
        [0.9, -0.2, 0.35, 0, -0.7, 0.1, -0.5, 0.8, -0.05, 0.6],
        [-0.9, 0.15, 0.4, 0.3, -0.8, 0, 0.55, -0.65, 0.25, 0.1],
        [0.2, -0.45, -0.75, 0, 0.85, -0.3, -0.95, 0.7, 0.5, -0.6],
    ]
)
MEMBERS = BASE + DELTAS
WEIGHTS = [1.0, 0.5, 2.0]


def trimmed(deltas: Array, n_largest: int, n_outliers: int = 0) -> Float64:
    """Flat differences of each member, the largest after some outliers kept."""
    rows = []
    for row in deltas.reshape(len(deltas), -1).astype(np.float64):
        ordered = np.sort(np.abs(row))[::-1][n_outliers : n_outliers + n_largest]
        kept = (np.abs(row) >= ordered[-1]) & (np.abs(row) <= ordered[0])
        rows.append(np.where(kept, row, 0.0))
    return np.array(rows)


def elected_mean(deltas: Float64, weights: list[float]) -> Float64:
    """Weighted mean of the differences that have the sign of their weighted sum."""
    result = []
    for column in deltas.T.tolist():
        products = [w * d for w, d in zip(weights, column, strict=True)]
        sign = np.sign(sum(products))
        agreeing = [
            (p, abs(w))
            for p, w in zip(products, weights, strict=True)
            if np.sign(p) == sign != 0
        ]
        total, divisor = map(sum, zip(*agreeing, strict=True)) if agreeing else (0, 1)
        result.append(total / divisor)
    return np.array(result)
