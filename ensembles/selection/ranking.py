"""Weights picked from a few: the best member, the best few, a point on a line."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64
from ensembles.registry import register
from ensembles.selection.forward_selection import score_alone, sorted_start
from ensembles.selection.score import Score, Trial, own_scores, score_of
from ensembles.selection.table import SELECTIONS, Record, check_whole


@register(SELECTIONS, single_member=True, n_scores=lambda n: n)
def best(n_members: int, score: Score, *, record: Record) -> Float64:
    """All weight on the member that scores best alone, the first among equals.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score
    record : callable
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


@register(SELECTIONS, adds_members=True, n_scores=lambda n: 2 * n)
def top_k(
    n_members: int, score: Score, *, k: int | None = None, record: Record
) -> Float64:
    """Equal weights on the ``k`` members that score best alone.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score
    k : int from 1 to n_members, or None, default=None
        None tries every number, and takes the one that scores best, the smallest among
        equals.
    record : callable
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
