"""Forward selection of members: greedy with replacement, and the greedy soup."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.registry import register
from ensembles.selection.score import (
    ROUNDING,
    Score,
    Trial,
    gains_of,
    own_scores,
    score_of,
)
from ensembles.selection.table import (
    SELECTIONS,
    Record,
    check_number,
    check_whole,
    generator_of,
    offers,
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
    check_whole(n_rounds=n_rounds, patience=most_idle, n_init=n_init, n_bags=n_bags)
    check_number(fraction=fraction)
    if min(n_rounds, n_init, most_idle) < 1 or n_bags < 0 or not 0 < fraction <= 1:
        raise ValueError(
            "n_rounds, patience and n_init must be at least 1, n_bags at least 0, "
            f"fraction in (0, 1]: found {n_rounds=}, {patience=}, {n_init=}, "
            f"{n_bags=}, {fraction=}"
        )
    if n_bags > 0 and not isinstance(random_state, np.random.RandomState):
        generator_of(random_state)  # raises; a RandomState would draw a number


@register(SELECTIONS, adds_members=True, n_scores=lambda n: 50 * n, check=_check_greedy)
def greedy(
    n_members: int,
    score: Score,
    *,
    n_rounds: int = 50,
    patience: int | None = None,
    n_init: int = 1,
    n_bags: int = 0,
    fraction: float = 0.5,
    random_state: int | np.random.Generator | np.random.RandomState | None = 0,
    record: Record,
) -> Float64:
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
    score : Score
        Score of weights; greater is better. Its method ``gains`` is used if it has one.
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
    ndarray of shape (n_members,), float64, non-negative, sum 1

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
    _check_greedy(
        n_members,
        n_rounds=n_rounds,
        patience=patience,
        n_init=n_init,
        n_bags=n_bags,
        fraction=fraction,
        random_state=random_state,
    )
    most_idle = n_rounds if patience is None else patience
    rng = generator_of(random_state) if n_bags > 0 else None
    own = own_scores(n_members, score)
    bags = [np.arange(n_members)]
    if rng is not None:
        size = math.ceil(fraction * n_members)
        bags = [rng.choice(n_members, size, replace=False) for _ in range(n_bags)]
    found = [
        _climb(score, own, np.sort(bag), (n_rounds, most_idle, n_init), record)
        for bag in bags
    ]
    return np.asarray(np.mean(found, axis=0))


def _climb(
    score: Score,
    own: Float64,
    members: Counts,
    rounds: tuple[int, int, int],
    record: Record,
) -> Float64:
    """Select greedily from the members of a bag."""
    n_rounds, most_idle, n_init = rounds
    n_idle = 0
    counts, best = sorted_start(score, own, members, n_init)
    record(best)
    for _ in range(n_rounds - 1):
        gains = gains_of(score, counts, members)
        winner = int(np.argmax(gains))  # the first of equals
        counts[members[winner]] += 1
        trial = Trial(counts / counts.sum(), float(gains[winner]))
        record(trial)
        n_idle += 1
        if _is_better(score, trial, best):
            best, n_idle = trial, 0
        if n_idle == most_idle:
            break
    return best.weights


def _is_better(score: Score, trial: Trial, best: Trial) -> bool:
    """Whether a trial scores better; scores again if gains are too close to decide."""
    slack = ROUNDING * max(1.0, abs(best.score))
    if abs(trial.score - best.score) > slack or not offers(score, "gains"):
        return trial.score > best.score
    if np.array_equal(trial.weights, best.weights):
        return False
    return score_of(score, trial.weights) > score_of(score, best.weights)


def score_alone(score: Score, own: Float64, member: int) -> float:
    """Score of a single member, without the rounding error of gains.

    Parameters
    ----------
    score : Score
        Score of weights; called only if it has the method ``gains``.
    own : ndarray of shape (n_members,)
        Score of each member alone; may have the rounding error of gains.
    member : int
        Index of the member.

    Returns
    -------
    float
    """
    if not offers(score, "gains"):
        return float(own[member])
    return score_of(score, np.eye(len(own))[member])


def sorted_start(
    score: Score, own: Float64, members: Counts, n_init: int
) -> tuple[Counts, Trial]:
    """Equal weights on the top k members, for the k that scores best.

    Parameters
    ----------
    score : Score
        Score of weights; greater is better.
    own : ndarray of shape (n_members,)
        Score of each member alone.
    members : ndarray of indices
        Members to select from.
    n_init : int
        Largest k.

    Returns
    -------
    counts : ndarray of shape (n_members,)
        1 for each selected member, 0 for the others.
    trial : Trial
        Weights and score of the selected members.
    """
    order = members[np.argsort(-own[members], kind="stable")][:n_init]
    counts = np.zeros((len(order), len(own)), np.int64)
    counts[:, order] = np.tri(len(order))  # row n holds the n + 1 best members
    values = [score_alone(score, own, order[0])]
    values += [score_of(score, start / start.sum()) for start in counts[1:]]
    first = int(np.argmax(values))
    return counts[first], Trial(counts[first] / (first + 1), values[first])


@register(SELECTIONS, adds_members=True, n_scores=lambda n: 2 * n)
def greedy_soup(n_members: int, score: Score, *, record: Record) -> Float64:
    """Equal weights on the members that help, tried once each from best to worst.

    Members are sorted by their scores in decreasing order; ties keep their order. A
    member is kept if the mean with it scores at least as well as the mean without it.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : Score
        Score of weights; greater is better. Called at most ``2 * n_members - 1`` times.
    record : callable
        Called with the `Trial` of each member, kept or not.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, sum 1

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
    own = own_scores(n_members, score)
    order = np.argsort(-own, kind="stable")
    kept = np.zeros(n_members, np.int64)
    kept[order[0]] = 1
    best = score_alone(score, own, order[0])
    record(Trial(kept / 1, best))
    for member in order[1:]:
        kept[member] = 1
        weights = kept / kept.sum()
        value = score_of(score, weights)
        record(Trial(weights, value))
        kept[member] = value >= best
        best = max(value, best)
    return np.asarray(kept / kept.sum())
