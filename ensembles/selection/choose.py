"""Resolution of an estimator's ``weights``: validation, selection and scoring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import warn_user
from ensembles._typing import Float64
from ensembles.registry import lookup
from ensembles.selection import SELECTIONS, Selection
from ensembles.selection.score import Score, Trial, own_scores, score_of
from ensembles.weights import check_weights


class Chosen(NamedTuple):
    """Weights, with the scores of the weights and of each member alone.

    Attributes
    ----------
    weights : ndarray of shape (n_members,)
        Weights as passed in, or as chosen by a selection.
    scores : ndarray of shape (n_members,) or None
        Score of each member alone; None without a score function.
    best_index : int or None
        Index of the member with the best score alone, the first among equals; None
        without a score function.
    score : float or None
        Score of ``weights``; None without a score function.
    history : tuple of Trial
        Weights and score of each step of the selection, in order; empty without one.
    """

    weights: Float64
    scores: Float64 | None = None
    best_index: int | None = None
    score: float | None = None
    history: tuple[Trial, ...] = ()


def choose(
    weights: ArrayLike | str | None,
    n_members: int,
    score: Score | None = None,
    *,
    signed: bool = False,
    scaled: bool = False,
    rule: str | None = None,
    names: Sequence[str] | None = None,
    **params: Any,
) -> Chosen:
    """Validate weights, or choose them by a selection, and score them.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        The weights, or the name of a selection that chooses them by ``score``. None
        gives every member the weight 1.
    n_members : int, at least 1
        Number of members.
    score : Score or None, default=None
        Score of weights; greater is better. With None nothing is scored, and a
        selection is an error.
    signed : bool, default=False
        Whether weights in an array may be negative.
    scaled : bool, default=False
        Whether the sum of the weights affects the result. If so, weights in an array
        are scored as they are, otherwise divided by their sum.
    rule : str or None, default=None
        Name of the rule that takes the weights, for the messages; None names none.
    names : sequence of str or None, default=None
        Names of the members, for the warning; None uses their indices.
    **params
        Parameters of the selection.

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        If weights are not valid (see `check_weights`), the name is unknown, a selection
        is used without a score, or a score is not finite.
    TypeError
        If ``params`` are passed without a selection.

    Warns
    -----
    UserWarning
        If a selection from several members does not beat the best single member.

    Examples
    --------
    >>> chosen = choose("greedy", 2, lambda weights: -abs(weights[1] - 0.5))
    >>> chosen.weights, chosen.score, chosen.scores
    (array([0.5, 0.5]), -0.0, array([-0.5, -0.5]))
    """
    if isinstance(weights, str):
        selection = lookup(SELECTIONS, weights)
        return select(selection, n_members, score, names=names, **params)
    if params:
        raise TypeError(
            f"parameters {', '.join(params)} must go with a selection's name as "
            f"weights, found weights={weights!r}"
        )
    values = check_weights(weights, n_members, signed=signed, rule=rule)
    if score is None:
        return Chosen(values)
    once = _Once(score)
    scores = own_scores(n_members, once)
    value = score_of(once, values if scaled else values / math.fsum(values))
    return Chosen(values, scores, int(np.argmax(scores)), value)


class _Once:
    """Caches the score of each single member, which may take minutes to compute."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.gains = getattr(score, "gains", None)
        self.gradient = getattr(score, "gradient", None)
        self.optimum = getattr(score, "optimum", None)
        self._alone: dict[bytes, float] = {}

    def __call__(self, weights: Float64) -> float:
        if np.count_nonzero(weights) != 1:
            return self.score(weights)
        key = weights.tobytes()
        if key not in self._alone:
            self._alone[key] = self.score(weights)
        return self._alone[key]


def select(
    selection: Selection,
    n_members: int,
    score: Score | None,
    *,
    names: Sequence[str] | None = None,
    **params: Any,
) -> Chosen:
    """Choose weights by a selection and compare them with the best single member.

    Parameters
    ----------
    selection : Selection
        Entry of the table `SELECTIONS`.
    n_members : int, at least 1
        Number of members.
    score : Score or None
        Score of weights; greater is better. None is an error.
    names : sequence of str or None, default=None
        Names of the members, for the warning; None uses their indices.
    **params
        Parameters of the selection.

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        If ``score`` is None or returns a value that is not finite.

    Warns
    -----
    UserWarning
        If the weights of several members do not beat the best single member.
    """
    chosen, value, best = _compared(selection, n_members, score, params)
    name, place = selection.name, int(chosen.best_index or 0)
    if n_members > 1 and value <= best and not selection.single_member:
        member = place if names is None else repr(names[place])
        warn_user(
            f"selection {name!r} did not beat the best member: its weights score "
            f"{value:.6g}, member {member} alone {best:.6g}; use that member, or add "
            "more diverse members"
        )
    return chosen


def select_quietly(
    selection: Selection, n_members: int, score: Score | None, **params: Any
) -> Chosen:
    """Choose weights by a selection, without the warning of `select`.

    Parameters
    ----------
    selection : Selection
        Entry of the table `SELECTIONS`.
    n_members : int, at least 1
        Number of members.
    score : Score or None
        Score of weights; greater is better. None is an error.
    **params
        Parameters of the selection.

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        If ``score`` is None or returns a value that is not finite.
    """
    return _compared(selection, n_members, score, params)[0]


def _compared(
    selection: Selection, n_members: int, score: Score | None, params: dict[str, Any]
) -> tuple[Chosen, float, float]:
    """Chosen weights, their score, and the score of the best single member."""
    if score is None:
        raise ValueError(
            f"weights={selection.name!r} must have a score to choose by, found "
            "none; give data to score on, or the weights themselves"
        )
    once, history = _Once(score), list[Trial]()
    scores = own_scores(n_members, once)
    found = selection(n_members, once, record=history.append, **params)
    value = score_of(once, found)
    best_index = int(np.argmax(scores))
    best = score_of(once, np.eye(n_members)[best_index])  # gains may be estimates
    return Chosen(found, scores, best_index, value, tuple(history)), value, best
