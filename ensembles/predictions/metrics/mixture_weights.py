"""Maximum-likelihood mixture weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks

GAP = 1e-9  # largest distance of the mean log-likelihood from the optimum
ROWS = 2048  # rows per block, in float64
N_KEPT = 64  # members kept after the first EM steps
N_JOINING = 24  # members that may be added in a Newton step
N_FIRST = 5  # EM steps
N_STEPS = 200  # Newton steps at most


class _Mixture(NamedTuple):
    """Mean log-likelihood of a mixture, with its derivatives."""

    entries: Float64
    shares: Float64
    floor: float

    def _rows(self, members: Counts, start: int, stop: int) -> Float64:
        part = self.entries[members, start:stop]
        return np.maximum(part, self.floor, dtype=np.float64)

    def mean(self, members: Counts, weights: Float64) -> Float64:
        out = np.empty(len(self.shares))
        for start, stop in chunks(len(out), ROWS):
            out[start:stop] = weights @ self._rows(members, start, stop)
        return out

    def slopes(self, means: Float64) -> Float64:
        """Derivatives of the mean log-likelihood with respect to the weights."""
        out = np.zeros(len(self.entries))
        for start, stop in chunks(len(means), ROWS):
            part = self.entries[:, start:stop]
            rows = np.maximum(part, self.floor, dtype=np.float64)
            out += rows @ (self.shares[start:stop] / means[start:stop])
        return out

    def curvature(self, members: Counts, means: Float64) -> Float64:
        """Negative second derivatives of the mean log-likelihood."""
        out = np.zeros((len(members), len(members)))
        for start, stop in chunks(len(means), ROWS):
            rows = self._rows(members, start, stop)
            rows *= np.sqrt(self.shares[start:stop]) / means[start:stop]
            out += rows @ rows.T
        return out

    def loss(self, means: Float64) -> float:
        return -float(self.shares @ np.log(means))


def mixture_weights(entries: Float64, shares: Float64, *, floor: float) -> Float64:
    """Weights on the simplex that maximize the mean log-likelihood of the mixture.

    A few expectation-maximization (EM) steps select the relevant members. Newton steps
    then find their weights; each solves a quadratic program over these members and the
    others with the largest slopes. By concavity, no weights improve the mean
    log-likelihood by more than the largest slope minus 1; the steps end when this bound
    is at most 1e-9.

    Parameters
    ----------
    entries : ndarray of shape (n_members, n_rows), non-negative
        Each member's probability or density of the observed target; not copied.
    shares : ndarray of shape (n_rows,), non-negative, sum 1
        Weights of the rows.
    floor : float, positive
        Smaller entries are raised to this value.

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
    mixture = _Mixture(entries, shares, floor)
    weights, means = _first_steps(mixture)
    for _ in range(N_STEPS):
        slopes = mixture.slopes(means)
        if slopes.max() - 1 <= GAP:
            break
        steepest = np.argsort(-slopes, kind="stable")[:N_JOINING]
        joined = (weights > 0) | (np.isin(np.arange(len(slopes)), steepest))
        weights, means = _step(mixture, np.flatnonzero(joined), weights, means, slopes)
    return weights


def _first_steps(mixture: _Mixture) -> tuple[Float64, Float64]:
    n_members = len(mixture.entries)
    everyone = np.arange(n_members)
    weights = np.full(n_members, 1 / n_members)
    for _ in range(N_FIRST):
        weights = weights * mixture.slopes(mixture.mean(everyone, weights))
    weights[np.argsort(-weights, kind="stable")[N_KEPT:]] = 0
    weights /= weights.sum()
    kept = np.flatnonzero(weights)
    return weights, mixture.mean(kept, weights[kept])


def _step(
    mixture: _Mixture,
    members: Counts,
    weights: Float64,
    means: Float64,
    slopes: Float64,
) -> tuple[Float64, Float64]:
    """One Newton step with backtracking; an EM step if no length is accepted."""
    here = weights[members]
    aim = _aim(mixture.curvature(members, means), slopes[members], here)
    moved = mixture.mean(members, aim) - means
    # Slope of the loss plus the sum of the weights; that sum is 1 at the optimum.
    slope = float((1 - slopes[members]) @ (aim - here))
    value, growth, length = mixture.loss(means), aim.sum() - here.sum(), 1.0
    while length > 1e-6:
        there = means + length * moved
        if there.min() > 0:
            reached = mixture.loss(there) + length * growth
            if reached <= value + 1e-4 * length * slope + 1e-15:
                break
        length /= 2
    else:
        aim, length = here * slopes[members], 1.0
        there = mixture.mean(members, aim)
    out = np.zeros(len(weights))
    out[members] = np.maximum(here + length * (aim - here), 0)
    total = out.sum()
    return out / total, there / total


def _aim(curvature: Float64, slopes: Float64, here: Float64) -> Float64:
    """Minimize the quadratic model of the loss over non-negative weights.

    ``curvature @ here`` equals ``slopes``, which simplifies the linear term. Identical
    members make the curvature singular; a small ridge on the step makes it factorable.
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    ridge = 1e-10 * np.trace(curvature) / len(curvature)
    factor = cholesky(curvature + ridge * np.eye(len(curvature)))
    target = solve_triangular(factor, 2 * slopes - 1 + ridge * here, trans="T")
    return np.asarray(nnls(factor, target, maxiter=30 * len(slopes))[0])
