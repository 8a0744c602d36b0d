"""Maximum-likelihood mixture weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks

GAP = 1e-9  # upper bound of the difference to the maximal mean log-likelihood
ROWS = 2048  # rows per block, in float64
N_KEPT = 64  # members kept after the first EM steps
N_ADDED = 24  # members that may be added in a Newton step
N_EM_STEPS = 5
N_NEWTON_STEPS = 200  # at most


class _Mixture(NamedTuple):
    """Mean log-likelihood of a mixture, with its derivatives."""

    likelihoods: Float64
    row_weights: Float64
    floor: float

    def _rows(self, members: Any, start: int, stop: int) -> Float64:
        """Likelihoods of some members in a block of rows, at least ``floor``."""
        block = self.likelihoods[members, start:stop]
        return np.maximum(block, self.floor, dtype=np.float64)

    def mean(self, members: Counts, weights: Float64) -> Float64:
        """Likelihood of the mixture in each row."""
        out = np.empty(len(self.row_weights))
        for start, stop in chunks(len(out), ROWS):
            out[start:stop] = weights @ self._rows(members, start, stop)
        return out

    def slopes(self, means: Float64) -> Float64:
        """Derivatives of the mean log-likelihood with respect to the weights."""
        out = np.zeros(len(self.likelihoods))
        for start, stop in chunks(len(means), ROWS):
            rows = self._rows(slice(None), start, stop)
            out += rows @ (self.row_weights[start:stop] / means[start:stop])
        return out

    def curvature(self, members: Counts, means: Float64) -> Float64:
        """Negative second derivatives of the mean log-likelihood."""
        out = np.zeros((len(members), len(members)))
        for start, stop in chunks(len(means), ROWS):
            rows = self._rows(members, start, stop)
            rows *= np.sqrt(self.row_weights[start:stop]) / means[start:stop]
            out += rows @ rows.T
        return out

    def loss(self, means: Float64) -> float:
        """Negative mean log-likelihood."""
        return -float(self.row_weights @ np.log(means))


def mixture_weights(
    likelihoods: Float64, row_weights: Float64, *, floor: float
) -> Float64:
    """Weights on the simplex that maximize the mean log-likelihood of the mixture.

    A few expectation-maximization (EM) steps select the relevant members. Newton steps
    then find their weights; each step solves a quadratic program over these members and
    the other members with the largest slopes, the derivatives with respect to their
    weights. By concavity, no weights improve the mean log-likelihood by more than the
    largest slope minus 1; the steps end when this bound is at most 1e-9.

    Parameters
    ----------
    likelihoods : ndarray of shape (n_members, n_rows), non-negative
        Each member's probability or density of the observed target; not copied.
    row_weights : ndarray of shape (n_rows,), non-negative, sum 1
        Weights of the rows.
    floor : float, positive
        Smaller likelihoods are raised to this value.

    Returns
    -------
    ndarray of shape (n_members,), non-negative, sum 1

    References
    ----------
    Dempster, Laird & Rubin (1977), "Maximum likelihood from incomplete data via the EM
    algorithm", JRSS B 39, section 4.3. Kim, Carbonetto, Stephens & Anitescu (2020), "A
    fast algorithm for maximum likelihood estimation of mixture proportions using
    sequential quadratic programming", JCGS 29: the formulation without the constraint
    on the sum is used here. Lindsay (1983), "The geometry of mixture
    likelihoods: a general theory", Annals of Statistics 11, for the bound.
    """
    mixture = _Mixture(likelihoods, row_weights, floor)
    weights, means = _em_steps(mixture)
    for _ in range(N_NEWTON_STEPS):
        slopes = mixture.slopes(means)
        if slopes.max() - 1 <= GAP:
            break
        steepest = np.argsort(-slopes, kind="stable")[:N_ADDED]
        is_active = (weights > 0) | (np.isin(np.arange(len(slopes)), steepest))
        active = np.flatnonzero(is_active)
        weights, means = _newton_step(mixture, active, weights, means, slopes)
    return weights


def _em_steps(mixture: _Mixture) -> tuple[Float64, Float64]:
    """Weights after EM steps, for the largest ones, and the mixture likelihoods."""
    n_members = len(mixture.likelihoods)
    members = np.arange(n_members)
    weights = np.full(n_members, 1 / n_members)
    for _ in range(N_EM_STEPS):
        weights = weights * mixture.slopes(mixture.mean(members, weights))
    weights[np.argsort(-weights, kind="stable")[N_KEPT:]] = 0
    weights /= weights.sum()
    kept = np.flatnonzero(weights)
    return weights, mixture.mean(kept, weights[kept])


def _newton_step(
    mixture: _Mixture,
    members: Counts,
    weights: Float64,
    means: Float64,
    slopes: Float64,
) -> tuple[Float64, Float64]:
    """One Newton step with backtracking; an EM step if no length is accepted."""
    current = weights[members]
    curvature = mixture.curvature(members, means)
    target = _minimize_model(curvature, slopes[members], current)
    means_step = mixture.mean(members, target) - means
    # The objective is the loss plus the sum of the weights, which is 1 at the optimum.
    slope = float((1 - slopes[members]) @ (target - current))
    loss, sum_step, length = mixture.loss(means), target.sum() - current.sum(), 1.0
    while length > 1e-6:
        new_means = means + length * means_step
        if new_means.min() > 0:
            new_objective = mixture.loss(new_means) + length * sum_step
            if new_objective <= loss + 1e-4 * length * slope + 1e-15:
                break
        length /= 2
    else:
        target, length = current * slopes[members], 1.0
        new_means = mixture.mean(members, target)
    new_weights = np.zeros(len(weights))
    new_weights[members] = np.maximum(current + length * (target - current), 0)
    total = new_weights.sum()
    return new_weights / total, new_means / total


def _minimize_model(curvature: Float64, slopes: Float64, current: Float64) -> Float64:
    """Non-negative weights that minimize the quadratic model of the objective.

    ``curvature @ current`` equals ``slopes``, which simplifies the linear term.
    Identical members make the curvature singular; a small ridge, which shortens the
    step, makes it positive definite.
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    ridge = 1e-10 * np.trace(curvature) / len(curvature)
    factor = cholesky(curvature + ridge * np.eye(len(curvature)))
    target = solve_triangular(factor, 2 * slopes - 1 + ridge * current, trans="T")
    return np.asarray(nnls(factor, target, maxiter=30 * len(slopes))[0])
