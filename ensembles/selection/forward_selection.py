"""Weights chosen by adding members one by one: greedy, and the greedy soup."""

from __future__ import annotations

import math

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


@register(SELECTIONS, adds_members=True, n_scores=lambda n: 50 * n)
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
    """Weights by forward selection with replacement, the best member each round.

    The first round takes the best single member, each later one the member that
    scores best when counted once more, even if that lowers the score. The round that
    scored best is returned, the earliest among equals; equal members go to the
    smallest index. Without bags the result is never worse than the best single member.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score
        ``score.gains`` is used where offered.
    n_rounds : int, at least 1, default=50
    patience : int or None, default=None
        Rounds without a better score after which it stops, at least 1; None goes on
        to the last. A soup, each of whose scores may take minutes, takes 10, or as many
        as there are members.
    n_init : int, at least 1, default=1
        Sorted initialisation: the first round takes the best members in the order of
        their own scores, as many as score best together, this many at most.
    n_bags : int, default=0
        Bagged selection: the mean of the weights chosen within so many random bags of
        members. 0 chooses among all members at once.
    fraction : float in (0, 1], default=0.5
        Share of the members in a bag, rounded up.
    random_state : int, Generator, RandomState or None, default=0
        Draws the bags; None draws others each time.
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
        If a parameter is no number.

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
    check_whole(n_rounds=n_rounds, patience=most_idle, n_init=n_init, n_bags=n_bags)
    check_number(fraction=fraction)
    if min(n_rounds, n_init, most_idle) < 1 or n_bags < 0 or not 0 < fraction <= 1:
        raise ValueError(
            "n_rounds, patience and n_init must be at least 1, n_bags at least 0, "
            f"fraction in (0, 1]: found {n_rounds=}, {patience=}, {n_init=}, "
            f"{n_bags=}, {fraction=}"
        )
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
    """Select greedily among some of the members."""
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
    """Whether a trial scores better, by the score itself where gains leave doubt."""
    slack = ROUNDING * max(1.0, abs(best.score))
    if abs(trial.score - best.score) > slack or not offers(score, "gains"):
        return trial.score > best.score
    if np.array_equal(trial.weights, best.weights):
        return False
    return score_of(score, trial.weights) > score_of(score, best.weights)


def score_alone(score: Score, own: Float64, member: int) -> float:
    """A member's own score, by the score itself, to be held against others.

    Parameters
    ----------
    score : Score
    own : ndarray of shape (n_members,)
        Scores of the members, estimates where the score offers gains.
    member : int

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
    """Count the best members once, as many as score best together.

    Parameters
    ----------
    score : Score
    own : ndarray of shape (n_members,)
    members : ndarray of indices
    n_init : int
        At most so many.

    Returns
    -------
    counts : ndarray of shape (n_members,)
    trial : Trial
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
    """Equal weights on the members that helped, in one pass from the best to the worst.

    Members come in decreasing order of their own scores, equal ones in their order. A
    member is kept if the mean with it scores at least as well as the mean without.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score
        Called ``2 * n_members - 1`` times at most.
    record : callable
        Called with the `Trial` of each member's turn, kept or not.

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
    recipe keeps a member that changes nothing; the authors' program does not.

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
