"""Forward selection of members: greedy with replacement, and the greedy soup."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.registry import register
from ensembles.selection.score import ROUNDING, CachedScore, Trial
from ensembles.selection.table import (
    SELECTIONS,
    Record,
    check_integer,
    check_real,
    generator_of,
)


def _check_greedy(
    n_members: int,
    *,
    n_rounds: int,
    patience: int | None,
    n_init: int,
    n_bags: int,
    fraction: float,
    random_state: Any,
) -> None:
    """Raise if a parameter of `greedy` is not valid."""
    most_idle = n_rounds if patience is None else patience
    check_integer(n_rounds=n_rounds, patience=most_idle, n_init=n_init, n_bags=n_bags)
    check_real(fraction=fraction)
    if min(n_rounds, n_init, most_idle) < 1 or n_bags < 0 or not 0 < fraction <= 1:
        raise ValueError(
            "n_rounds, patience and n_init must be at least 1, n_bags at least 0, "
            f"fraction in (0, 1]: found {n_rounds=}, {patience=}, {n_init=}, "
            f"{n_bags=}, {fraction=}"
        )
    if n_bags > 0 and not isinstance(random_state, np.random.RandomState):
        generator_of(random_state)  # raises; a RandomState would draw a number


@register(SELECTIONS, check=_check_greedy, adds_members=True, n_scores=lambda n: 50 * n)
def greedy(
    n_members: int,
    score: CachedScore,
    *,
    n_rounds: int = 50,
    patience: int | None = None,
    n_init: int = 1,
    n_bags: int = 0,
    fraction: float = 0.5,
    random_state: int | np.random.Generator | np.random.RandomState | None = 0,
    record: Record,
) -> Counts | Float64:
    """Forward selection with replacement: add the best member in each round.

    The first round takes the best single member, each later round the member that
    scores best when it is counted once more, even if this lowers the score. Returns the
    weights of the best round, the earliest among equals; ties between members go to the
    smallest index. Without bags the result never scores worse than the best single
    member.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better. Its methods ``gains`` and ``score_counts``
        are used if it has them.
    n_rounds : int, at least 1, default=50
        Maximum number of rounds.
    patience : int or None, default=None
        Stop after this many rounds without a better score, at least 1; None runs all
        rounds. Model soups, where a score may take minutes, use the larger of 10 and
        the number of members by default.
    n_init : int, at least 1, default=1
        Sorted initialization: the first round takes the k members with the best scores,
        for the k from 1 to ``n_init`` that scores best.
    n_bags : int, default=0
        Number of bags. With bags the result is the mean of the weights selected in
        each random bag of members; 0 selects once from all members.
    fraction : float in (0, 1], default=0.5
        Share of the members in a bag, rounded up.
    random_state : int, Generator, RandomState or None, default=0
        Seed or generator of the bags; None draws different bags in each call.
    record : callable
        Called with the `Trial` of each round, bag after bag.

    Returns
    -------
    ndarray of shape (n_members,)
        How often each member was added, int64. With bags float64 weights, with sum 1.

    Raises
    ------
    ValueError
        If a parameter is out of range or a score is not finite.
    TypeError
        If a parameter has the wrong type.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew and Ksikes (2004), "Ensemble selection from libraries
    of models", ICML, section 2. A bag here holds a fixed number of members, so that
    none is empty.

    Examples
    --------
    >>> greedy(2, lambda weights: -abs(weights[1] - 0.4), n_rounds=5)
    array([0.6, 0.4])
    """
    most_idle = n_rounds if patience is None else patience
    rng = generator_of(random_state) if n_bags > 0 else None
    scores = score.member_scores(n_members)
    rounds = (n_rounds, most_idle, n_init)
    if rng is None:
        return _climb(score, scores, np.arange(n_members), rounds, record)
    size = math.ceil(fraction * n_members)
    bags = [rng.choice(n_members, size, replace=False) for _ in range(n_bags)]
    counts = [_climb(score, scores, np.sort(bag), rounds, record) for bag in bags]
    return np.asarray(np.mean([count / count.sum() for count in counts], axis=0))


def _climb(
    score: CachedScore,
    scores: Float64,
    members: Counts,
    rounds: tuple[int, int, int],
    record: Record,
) -> Counts:
    """Counts of the best round of a greedy selection from some of the members."""
    n_rounds, most_idle, n_init = rounds
    n_idle = 0
    best = best_prefix(score, scores, members, n_init)
    best_counts = counts = np.asarray(best.counts)
    record(best)
    for _ in range(n_rounds - 1):
        gains = score.scores_after_adding(counts, members)
        winner = int(np.argmax(gains))  # the first of equals
        counts = counts.copy()
        counts[members[winner]] += 1
        trial = Trial(counts / counts.sum(), float(gains[winner]), counts)
        record(trial)
        n_idle += 1
        if _is_better(score, trial, best):
            best, best_counts, n_idle = trial, counts, 0
        if n_idle == most_idle:
            break
    return best_counts


def _is_better(score: CachedScore, trial: Trial, best: Trial) -> bool:
    """Whether a trial scores better; scores again if gains are too close to decide."""
    slack = ROUNDING * max(1.0, abs(best.score))
    if abs(trial.score - best.score) > slack or not score.supports("gains"):
        return trial.score > best.score
    if np.array_equal(trial.weights, best.weights):
        return False
    return score(trial.weights) > score(best.weights)


def best_prefix(
    score: CachedScore, scores: Float64, members: Counts, n_init: int
) -> Trial:
    """Equal weights on the top k members, for the k that scores best.

    Parameters
    ----------
    score : CachedScore
        Score of weights; greater is better.
    scores : ndarray of shape (n_members,)
        Score of each member alone; may have the rounding error of gains.
    members : ndarray of indices
        Members to select from.
    n_init : int
        Largest k.

    Returns
    -------
    Trial
        With counts, 1 for each selected member and 0 for the others.
    """
    order = members[np.argsort(-scores[members], kind="stable")][:n_init]
    counts = np.zeros((len(order), len(scores)), np.int64)
    counts[:, order] = np.tri(len(order))  # row n holds the n + 1 best members
    values = np.empty(len(order))
    for size, prefix in enumerate(counts):
        values[size] = score.score_counts(prefix)
    best = int(np.argmax(values))
    return Trial(counts[best] / (best + 1), float(values[best]), counts[best])


@register(SELECTIONS, adds_members=True, n_scores=lambda n: 2 * n)
def greedy_soup(n_members: int, score: CachedScore, *, record: Record) -> Counts:
    """Equal weights on the members that help, tried once each from best to worst.

    Members are sorted by their scores in decreasing order; ties keep their order. A
    member is kept if the mean with it scores at least as well as the mean without it.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better. Called at most ``2 * n_members - 1`` times.
    record : callable
        Called with the `Trial` of each member, kept or not.

    Returns
    -------
    ndarray of shape (n_members,), int64
        1 for each member of the soup, 0 for the others.

    Raises
    ------
    ValueError
        If a score is not finite.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML, recipe 1. The
    recipe keeps a member that does not change the score; the authors' code does not.

    Examples
    --------
    >>> greedy_soup(3, lambda weights: weights[0] + 2 * min(weights[0], weights[2]))
    array([0.5, 0. , 0.5])
    """
    scores = score.member_scores(n_members)
    order = np.argsort(-scores, kind="stable")
    counts = np.zeros(n_members, np.int64)
    counts[order[0]] = 1
    best = score.score_counts(counts)
    record(Trial(counts / 1, best, counts.copy()))
    for member in order[1:]:
        counts[member] = 1
        value = score.score_counts(counts)
        record(Trial(counts / counts.sum(), value, counts.copy()))
        counts[member] = value >= best
        best = max(value, best)
    return counts
