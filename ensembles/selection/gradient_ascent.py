"""Gradient-based optimization of a smooth score over the simplex of weights."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64
from ensembles.registry import register
from ensembles.selection.score import CachedScore, Trial
from ensembles.selection.table import SELECTIONS, Record


@register(SELECTIONS, uses_gradient=True, n_scores=lambda n: 7 * n)
def convex(n_members: int, score: CachedScore, *, record: Record) -> Float64:
    """Weights that maximize a smooth score over the simplex.

    Uses the optimum that the score computes itself, if it has the method, otherwise
    sequential least squares programming (SLSQP) from equal weights. Returns the best
    weights that were scored, including the best single member and equal weights, so the
    result is never worse than either. For a concave score, such as the negative
    log-loss or squared error of averaged predictions, it is the optimum. A piecewise
    constant score, such as accuracy, has no useful gradient: use `greedy`.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better. Its method ``optimum`` is used if it has
        one, otherwise ``gradient``, otherwise finite differences, which need
        ``n_members`` more scores per step.
    record : callable
        Called with the `Trial` of each step, without finite differences, or of the
        optimum.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, sum 1

    Raises
    ------
    ValueError
        If a score or a gradient is not finite, or an optimum not on the simplex.

    References
    ----------
    Kraft (1988), "A software package for sequential quadratic programming", DFVLR-FB
    88-28, as in ``scipy.optimize.minimize``.
    """
    scores = score.member_scores(n_members)
    equal = np.full(n_members, 1 / n_members)
    tried = [
        Trial(np.eye(n_members)[np.argmax(scores)], float(scores.max())),
        Trial(equal, score(equal)),
    ]
    if score.supports("optimum"):
        weights = score.optimum(n_members)
        tried.append(Trial(weights, score(weights)))
        record(tried[-1])
    else:
        _ascend(score, scores, tried, record)
    return max(tried, key=lambda trial: trial.score).weights


def _ascend(
    score: CachedScore, scores: Float64, tried: list[Trial], record: Record
) -> None:
    """Run SLSQP from equal weights, the last entry of ``tried``; append each step."""
    # Imported here: it loads more slowly than all modules that selections build on.
    from scipy.optimize import minimize

    # The tolerance of SLSQP is absolute, and a score may have any unit.
    equal, value = tried[-1].weights, tried[-1].score
    unit = float(np.abs(scores - value).max()) or 1.0

    def objective(point: Float64) -> float:
        weights = _onto_simplex(point)
        tried.append(Trial(weights, score(weights)))
        record(tried[-1])
        return -tried[-1].score / unit

    def gradient(point: Float64) -> Float64:
        return -score.gradient(_onto_simplex(point)) / unit

    minimize(
        objective,
        equal,
        jac=gradient,
        method="SLSQP",
        bounds=[(0, 1)] * len(equal),
        constraints={"type": "eq", "fun": lambda point: point.sum() - 1},
        options={"maxiter": 1000, "ftol": 1e-12},
    )


def _onto_simplex(point: Float64) -> Float64:
    """Normalize weights: SLSQP meets the constraint on their sum to 1e-9 only."""
    return np.asarray(point / point.sum())
