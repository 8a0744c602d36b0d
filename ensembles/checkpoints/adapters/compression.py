"""Smaller ranks of low-rank updates, by singular values that need no dense update.

``b @ a`` of rank r is ``Qb (Rb Ra') Qa'`` with the QR factorizations of ``b`` and of
the transpose of ``a``: its singular values are those of the r times r matrix inside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.lora.adapter import Factors

ROUNDING = float(np.finfo(np.float64).eps)


class Decomposition(NamedTuple):
    """Singular value decomposition of an update, ``left * values @ right``.

    Parameters
    ----------
    left : ndarray of shape (n_experts, n_outputs, rank)
        Left singular vectors.
    values : ndarray of shape (n_experts, rank)
        Singular values, in descending order.
    right : ndarray of shape (n_experts, rank, n_inputs)
        Right singular vectors.
    """

    left: Float64
    values: Float64
    right: Float64

    @property
    def energies(self) -> Float64:
        """Sum over experts of the squares of each singular value, of shape (rank,)."""
        return np.asarray(np.sum(np.square(self.values), axis=0))

    @property
    def rank(self) -> int:
        """Number of singular values above the rounding error of float64, at least 1."""
        size = self.left.shape[1] + self.right.shape[2]
        largest = self.values.max(axis=0)
        return max(int(np.sum(largest > ROUNDING * size * largest.max())), 1)

    def rank_for(self, energy: float) -> int:
        """Smallest rank that keeps a fraction of the sum of squared singular values."""
        kept = np.cumsum(self.energies)
        return min(int(np.searchsorted(kept, energy * kept[-1])) + 1, self.rank)

    def kept_energy(self, rank: int) -> float:
        """Fraction of the sum of squared singular values that a rank keeps."""
        total = float(self.energies.sum())
        return float(self.energies[:rank].sum()) / total if total else 1.0

    def truncated(self, rank: int) -> Factors:
        """Factors of the best approximation of a rank: both get the roots of values."""
        roots = np.sqrt(self.values[:, :rank])
        return Factors(
            roots[:, :, None] * self.right[:, :rank],
            self.left[:, :, :rank] * roots[:, None, :],
        )


def decomposed(update: Factors) -> Decomposition:
    """Singular value decomposition of an update, in float64.

    Parameters
    ----------
    update : Factors
        Update of any rank.

    Returns
    -------
    Decomposition
    """
    left, left_core = np.linalg.qr(update.b)
    right, right_core = np.linalg.qr(np.swapaxes(update.a, -1, -2))
    u, values, vt = np.linalg.svd(
        left_core @ np.swapaxes(right_core, -1, -2), full_matrices=False
    )
    return Decomposition(left @ u, values, vt @ np.swapaxes(right, -1, -2))
