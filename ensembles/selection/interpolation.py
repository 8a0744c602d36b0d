"""Interpolation between a base and its fine-tuned members."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensembles._typing import Float64
from ensembles.registry import register
from ensembles.selection.score import CachedScore, Trial
from ensembles.selection.table import SELECTIONS, Record
from ensembles.weights import check_weights

ALPHAS = tuple(step / 10 for step in range(11))


def _check_wise_ft(n_members: int, *, alphas: Sequence[float]) -> None:
    """Raise if the parameter of `wise_ft` is not valid."""
    try:
        values = np.asarray(alphas, np.float64)
    except (TypeError, ValueError):  # a string, or lists of different lengths
        values = np.empty(0)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            "alphas must be a list of numbers from 0 to 1, such as alphas=[0.3]; found "
            f"{alphas!r}"
        )


@register(
    SELECTIONS,
    check=_check_wise_ft,
    needs_base=True,
    n_scores=lambda n: n + len(ALPHAS),
)
def wise_ft(
    n_members: int,
    score: CachedScore,
    *,
    alphas: Sequence[float] = ALPHAS,
    record: Record,
) -> Float64:
    """Interpolate between the base and the mean of its fine-tuned members.

    The weight is alpha / n_members for each member and 1 - alpha for the base, with the
    ``alpha`` that scores best, the smallest among equals.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members, without the base.
    score : CachedScore
        Score of weights; greater is better. Called once for each alpha, with weights
        of sum alpha.
    alphas : sequence of float in [0, 1], default=0, 0.1, ..., 1
        Interpolation coefficients to try; 0 is the base alone, 1 the mean of the
        members.
    record : callable
        Called with the `Trial` of each alpha.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, with sum alpha

    Raises
    ------
    ValueError
        If ``alphas`` is empty, an alpha is out of range, or a score is not finite.

    References
    ----------
    Wortsman et al. (2022), "Robust fine-tuning of zero-shot models", CVPR,
    arXiv:2109.01903, equation 1.
    """
    each = check_weights(None, n_members) / n_members
    trials = []
    for alpha in np.asarray(alphas, np.float64):
        weights = alpha * each
        trials.append(Trial(weights, score(weights)))
        record(trials[-1])
    return max(trials, key=lambda trial: trial.score).weights
