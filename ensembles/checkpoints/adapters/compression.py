"""Smaller ranks of low-rank updates, by singular values that need no dense update.

``b @ a`` of rank r is ``Qb (Rb Ra') Qa'`` with the QR factorizations of ``b`` and of
the transpose of ``a``: its singular values are those of the r times r matrix inside.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.lora.adapter import Factors

ROUNDING = float(np.finfo(np.float64).eps)
# Largest condition number for which the Cholesky factor of the Gram matrix is taken in
# place of a QR factorization, at a fifth of the time: its error is 1e6 roundings.
WELL_CONDITIONED = 1e3


class Decomposition(NamedTuple):
    """Singular value decomposition of an update, in bases of its factors.

    Parameters
    ----------
    b_basis : ndarray of shape (n_experts, n_outputs, n_b)
        Orthonormal columns with the span of the second factor.
    u : ndarray of shape (n_experts, n_b, size)
        Left singular vectors in this basis.
    values : ndarray of shape (n_experts, size)
        Singular values, in descending order.
    vt : ndarray of shape (n_experts, size, n_a)
        Right singular vectors in the basis of the first factor.
    a_basis : ndarray of shape (n_experts, n_inputs, n_a)
        Orthonormal columns with the span of the rows of the first factor.
    """

    b_basis: Float64
    u: Float64
    values: Float64
    vt: Float64
    a_basis: Float64

    @property
    def size(self) -> int:
        """Number of singular values, zeros included."""
        return int(self.values.shape[1])

    @property
    def energies(self) -> Float64:
        """Sum over experts of the squares of each singular value, of shape (size,)."""
        return np.asarray(np.sum(np.square(self.values), axis=0))

    def rank_for(self, energy: float) -> int:
        """Smallest rank that keeps a fraction of the sum of squared singular values."""
        kept = np.cumsum(self.energies)
        # Squares below the rounding error of the sum are not counted.
        needed = energy * kept[-1] * (1 - self.size * ROUNDING)
        return min(int(np.searchsorted(kept, needed)) + 1, self.size)

    def kept_energy(self, rank: int) -> float:
        """Fraction of the sum of squared singular values that a rank keeps."""
        energies = self.energies
        total = float(energies.sum())
        return 1 - float(energies[rank:].sum()) / total if total else 1.0

    def truncated(self, rank: int) -> Factors:
        """Factors of the best approximation of a rank: both get the roots of values."""
        roots = np.sqrt(self.values[:, :rank])
        a = roots[:, :, None] * self.vt[:, :rank]
        b = self.u[:, :, :rank] * roots[:, None, :]
        return Factors(a @ np.swapaxes(self.a_basis, -1, -2), self.b_basis @ b)


def check_size(rank: int | None, energy: float | None) -> None:
    """Raise if a rank or a fraction of energy is not valid.

    Parameters
    ----------
    rank : int or None
        Largest rank of a module.
    energy : float or None
        Fraction of the sum of squared singular values.

    Raises
    ------
    ValueError
        If the rank is not a positive integer, or the fraction is not in (0, 1].
    """
    is_number = isinstance(rank, int | np.integer) and not isinstance(rank, bool)
    if rank is not None and not (is_number and rank >= 1):
        raise ValueError(f"rank must be a whole number of at least 1, found {rank!r}")
    is_number = isinstance(energy, int | float | np.number)
    if energy is not None and not (is_number and 0 < energy <= 1):
        raise ValueError(
            f"energy must be a fraction above 0 and at most 1, found {energy!r}"
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
    b_basis, b_core = _orthonormal(update.b)
    a_basis, a_core = _orthonormal(np.swapaxes(update.a, -1, -2))
    u, values, vt = np.linalg.svd(
        b_core @ np.swapaxes(a_core, -1, -2), full_matrices=False
    )
    return Decomposition(b_basis, u, values, vt, a_basis)


def _orthonormal(columns: Float64) -> tuple[Float64, Float64]:
    """QR factorization of each matrix of a stack."""
    with suppress(np.linalg.LinAlgError):  # not positive definite
        gram = np.swapaxes(columns, -1, -2) @ columns
        core = np.swapaxes(np.linalg.cholesky(gram), -1, -2)
        values = np.linalg.svd(core, compute_uv=False)
        if np.all(values[..., 0] <= WELL_CONDITIONED * values[..., -1]):
            return columns @ np.linalg.inv(core), core
    return np.linalg.qr(columns)
