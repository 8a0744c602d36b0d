"""Weights picked from a few: the best member, the best few, a point on a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensembles.registry import register
from ensembles.selection.adding import score_alone, sorted_start
from ensembles.selection.registering import SELECTIONS, Record, check_whole, forget
from ensembles.weighting import (
    Floats,
    Score,
    Trial,
    check_weights,
    own_scores,
    score_of,
)

ALPHAS = tuple(step / 10 for step in range(11))


@register(SELECTIONS)
def best(n_members: int, score: Score, *, record: Record = forget) -> Floats:
    """All weight on the member that scores best alone, the first among equals.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score
    record : callable, default does nothing
        Called with the `Trial` of the member.

    Returns
    -------
    ndarray of shape (n_members,), float64

    Raises
    ------
    ValueError
        If a score is not finite.

    References
    ----------
    Stone (1974), "Cross-validatory choice and assessment of statistical predictions",
    Journal of the Royal Statistical Society B 36: what any combination is held against.
    """
    own = own_scores(n_members, score)
    member = int(np.argmax(own))
    weights = np.eye(n_members)[member]
    record(Trial(weights, score_alone(score, own, member)))
    return np.asarray(weights)


@register(SELECTIONS)
def top_k(
    n_members: int, score: Score, *, k: int | None = None, record: Record = forget
) -> Floats:
    """Equal weights on the ``k`` members that score best alone.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score
    k : int from 1 to n_members, or None, default=None
        None tries every number, and takes the one that scores best, the smallest among
        equals.
    record : callable, default does nothing
        Called with the `Trial` of what is returned.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, sum 1

    Raises
    ------
    ValueError
        If ``k`` is out of range or a score is not finite.
    TypeError
        If ``k`` is no whole number.

    References
    ----------
    Zhou, Wu and Tang (2002), "Ensembling neural networks: many could be better than
    all", Artificial Intelligence 137, for taking some of the members.
    """
    if k is not None:
        check_whole(k=k)
    if k is not None and not 1 <= k <= n_members:
        raise ValueError(
            f"k must be from 1 to the number of members, {n_members}, found {k}"
        )
    own, members = own_scores(n_members, score), np.arange(n_members)
    if k is None:
        _, trial = sorted_start(score, own, members, n_members)
    else:
        weights = np.zeros(n_members)
        weights[np.argsort(-own, kind="stable")[:k]] = 1 / k
        trial = Trial(weights, score_of(score, weights))
    record(trial)
    return trial.weights


@register(SELECTIONS)
def wise_ft(
    n_members: int,
    score: Score,
    *,
    alphas: Sequence[float] = ALPHAS,
    record: Record = forget,
) -> Floats:
    """Weights on the line from the first member, a base, to the mean of the others.

    (1 - alpha) on the first member and alpha / (n_members - 1) on each other, for the
    ``alpha`` that scores best, the smallest among equals.

    Parameters
    ----------
    n_members : int, at least 1
        One alone gets all the weight.
    score : Score
        Called once for each alpha.
    alphas : sequence of float in [0, 1], default=0, 0.1, ..., 1
    record : callable, default does nothing
        Called with the `Trial` of each alpha.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, sum 1

    Raises
    ------
    ValueError
        If there is no alpha, one is out of range, or a score is not finite.

    References
    ----------
    Wortsman et al. (2022), "Robust fine-tuning of zero-shot models", CVPR,
    arXiv:2109.01903, equation 1.
    """
    each = check_weights(None, n_members) / max(n_members - 1, 1)
    try:
        found = np.asarray(alphas, np.float64)
    except (TypeError, ValueError):  # a text, or lists of several lengths
        found = np.empty(0)
    if found.ndim != 1 or not len(found) or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(
            "alphas must be a list of numbers from 0 to 1, such as alphas=[0.3]; found "
            f"{alphas!r}"
        )
    trials = []
    for alpha in found if n_members > 1 else [0.0]:
        weights = alpha * each
        weights[0] = 1 - alpha
        trials.append(Trial(weights, score_of(score, weights)))
        record(trials[-1])
    return max(trials, key=lambda trial: trial.score).weights
