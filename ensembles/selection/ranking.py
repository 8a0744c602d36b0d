"""Selections by the scores of single members: the best member, and the top k."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Counts
from ensembles.registry import register
from ensembles.selection.forward_selection import best_prefix
from ensembles.selection.score import CachedScore, Trial
from ensembles.selection.table import SELECTIONS, Record, check_integer


@register(SELECTIONS, single_member=True, n_scores=lambda n: n)
def best(n_members: int, score: CachedScore, *, record: Record) -> Counts:
    """All weight on the member with the best score, the first among equals.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better. Called for each member alone.
    record : callable
        Called with the `Trial` of the best member.

    Returns
    -------
    ndarray of shape (n_members,), int64
        1 for the best member, 0 for the others.

    Raises
    ------
    ValueError
        If a score is not finite.

    References
    ----------
    Stone (1974), "Cross-validatory choice and assessment of statistical predictions",
    Journal of the Royal Statistical Society B 36: the baseline for combinations.
    """
    counts = np.zeros(n_members, np.int64)
    counts[np.argmax(score.member_scores(n_members))] = 1
    record(Trial(counts / 1, score.score_counts(counts), counts))
    return counts


def _check_top_k(n_members: int, *, k: int | None) -> None:
    """Raise if the parameter of `top_k` is not valid."""
    if k is not None:
        check_integer(k=k)
    if k is not None and not 1 <= k <= n_members:
        raise ValueError(
            f"k must be from 1 to the number of members, {n_members}, found {k}"
        )


@register(SELECTIONS, check=_check_top_k, adds_members=True, n_scores=lambda n: 2 * n)
def top_k(
    n_members: int, score: CachedScore, *, k: int | None = None, record: Record
) -> Counts:
    """Equal weights on the ``k`` members with the best scores.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better.
    k : int from 1 to n_members, or None, default=None
        Number of members to keep. None tries every number and keeps the one that scores
        best, the smallest among equals.
    record : callable
        Called with the `Trial` of the returned weights.

    Returns
    -------
    ndarray of shape (n_members,), int64
        1 for each selected member, 0 for the others.

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
    scores = score.member_scores(n_members)
    if k is None:
        trial = best_prefix(score, scores, np.arange(n_members), n_members)
    else:
        counts = np.zeros(n_members, np.int64)
        counts[np.argsort(-scores, kind="stable")[:k]] = 1
        trial = Trial(counts / k, score.score_counts(counts), counts)
    record(trial)
    return np.asarray(trial.counts)
