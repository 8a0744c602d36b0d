"""What the estimators of all wings share: how ``weights=`` becomes ``weights_``."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles.registry import lookup
from ensembles.selection import SELECTIONS
from ensembles.weighting import (
    Floats,
    Score,
    Trial,
    check_weights,
    own_scores,
    score_of,
)


class Chosen(NamedTuple):
    """Weights, and how they compare with the best single member.

    Attributes
    ----------
    weights : ndarray of shape (n_members,)
        As given, or as a selection chose them.
    scores : ndarray of shape (n_members,) or None
        Each member's own score; None where nothing was scored.
    best_index : int or None
        The member that scores best alone, the first among equals.
    score : float or None
        Of the weights.
    history : tuple of Trial
        Weights and score of each step of the selection, in order.
    """

    weights: Floats
    scores: Floats | None = None
    best_index: int | None = None
    score: float | None = None
    history: tuple[Trial, ...] = ()


def choose(
    weights: ArrayLike | str | None,
    n_members: int,
    score: Score | None = None,
    *,
    signed: bool = False,
    rule: str | None = None,
    **params: Any,
) -> Chosen:
    """Weights for an estimator's ``weights=``, beside its best single member.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        The weights; the name of a selection, which chooses them by ``score``; or None,
        which counts every member once.
    n_members : int, at least 1
    score : Score or None, default=None
        With None nothing is scored, and a selection is an error.
    signed : bool, default=False
        Whether weights that are given may be negative.
    rule : str or None, default=None
        Name of the rule that takes the weights, told in the errors.
    **params
        Parameters of the selection.

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        If weights are wrong (see `check_weights`), the name is unknown, a selection
        has no score, or a score is not finite.
    TypeError
        If ``params`` are given without a selection.

    Warns
    -----
    UserWarning
        If a selection among several members does not beat the best of them.

    Examples
    --------
    >>> chosen = choose("greedy", 2, lambda weights: -abs(weights[1] - 0.5))
    >>> chosen.weights, chosen.score, chosen.scores
    (array([0.5, 0.5]), -0.0, array([-0.5, -0.5]))
    """
    if isinstance(weights, str):
        return _select(weights, n_members, score, params)
    if params:
        raise TypeError(
            f"parameters {', '.join(params)} must go with a selection's name as "
            f"weights, found weights={weights!r}"
        )
    values = check_weights(weights, n_members, signed=signed, rule=rule)
    if score is None:
        return Chosen(values)
    known = _Known(n_members, score)
    value = score_of(known, values / math.fsum(values))
    return Chosen(values, known.scores, known.best_index, value)


class _Known:
    """A score that asks for each member's own score once: it may take minutes."""

    def __init__(self, n_members: int, score: Score) -> None:
        self.scores = own_scores(n_members, score)
        self.best_index = int(np.argmax(self.scores))
        self.score = score
        self.gains = getattr(score, "gains", None)
        self.gradient = getattr(score, "gradient", None)

    def __call__(self, weights: Floats) -> float:
        members = np.flatnonzero(weights)
        if len(members) == 1:
            return float(self.scores[members[0]])
        return self.score(weights)


def _select(
    name: str, n_members: int, score: Score | None, params: dict[str, Any]
) -> Chosen:
    selection = lookup(SELECTIONS, name)
    if score is None:
        raise ValueError(
            f"weights={name!r} must have a score to choose by, found none; give data "
            "to score on, or the weights themselves"
        )
    known, history = _Known(n_members, score), list[Trial]()
    found = selection(n_members, known, record=history.append, **params)
    value = score_of(known, found)
    best = float(known.scores[known.best_index])
    if n_members > 1 and value <= best:
        warnings.warn(
            f"selection {name!r} helped nothing: its weights score {value:.6g}, member "
            f"{known.best_index} alone {best:.6g}; use that member, or add members "
            "that err differently",
            stacklevel=4,
        )
    return Chosen(found, known.scores, known.best_index, value, tuple(history))
