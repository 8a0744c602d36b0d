"""Selections by the scores of single members: the best member, and the top k."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64
from ensembles.registry import register
from ensembles.selection.forward_selection import score_alone, sorted_start
from ensembles.selection.score import Score, Trial, own_scores, score_of
from ensembles.selection.table import SELECTIONS, Record, check_whole


@register(SELECTIONS, single_member=True, n_scores=lambda n: n)
def best(n_members: int, score: Score, *, record: Record) -> Float64:
    """All weight on the member with the best score, the first among equals.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : Score
        Score of weights; greater is better. Called for each member alone.
    record : callable
        Called with the `Trial` of the best member.

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
    Journal of the Royal Statistical Society B 36: the baseline for combinations.
    """
    own = own_scores(n_members, score)
    member = int(np.argmax(own))
    weights = np.eye(n_members)[member]
    record(Trial(weights, score_alone(score, own, member)))
    return np.asarray(weights)


def _check_top_k(n_members: int, *, k: int | None) -> None:
    """Raise if the parameter of `top_k` is not valid."""
    if k is not None:
        check_whole(k=k)
    if k is not None and not 1 <= k <= n_members:
        raise ValueError(
            f"k must be from 1 to the number of members, {n_members}, found {k}"
        )


@register(SELECTIONS, adds_members=True, n_scores=lambda n: 2 * n, check=_check_top_k)
def top_k(
    n_members: int, score: Score, *, k: int | None = None, record: Record
) -> Float64:
    """Equal weights on the ``k`` members with the best scores.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : Score
        Score of weights; greater is better.
    k : int from 1 to n_members, or None, default=None
        Number of members to keep. None tries every number and keeps the one that scores
        best, the smallest among equals.
    record : callable
        Called with the `Trial` of the returned weights.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, sum 1

    Raises
    ------
    ValueError
        If ``k`` is out of range or a score is not finite.
    TypeError
        If ``k`` is not an integer.

    References
    ----------
    Zhou, Wu and Tang (2002), "Ensembling neural networks: many could be better than
    all", Artificial Intelligence 137, for the use of a subset of the members.
    """
    _check_top_k(n_members, k=k)
    own, members = own_scores(n_members, score), np.arange(n_members)
    if k is None:
        _, trial = sorted_start(score, own, members, n_members)
    else:
        weights = np.zeros(n_members)
        weights[np.argsort(-own, kind="stable")[:k]] = 1 / k
        trial = Trial(weights, score_of(score, weights))
    record(trial)
    return trial.weights
