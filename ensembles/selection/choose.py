"""Resolution of an estimator's ``weights``: validation, selection and scoring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import warn_caller
from ensembles._typing import Counts, Float64
from ensembles.registry import lookup
from ensembles.selection import SELECTIONS, Selection
from ensembles.selection.score import CachedScore, Score, Trial
from ensembles.weights import check_weights


class SelectionResult(NamedTuple):
    """Weights, with the scores of the weights and of each member alone.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Weights as passed in, or as chosen by a selection.
    scores : ndarray of shape (n_members,) or None, default=None
        Score of each member alone; None without a score function.
    best_index : int or None, default=None
        Index of the member with the best score alone, the first among equals; None
        without a score function.
    score : float or None, default=None
        Score of ``weights``; None without a score function.
    history : tuple of Trial, default=()
        Weights and score of each step of the selection, in order; empty without one.
    counts : ndarray of shape (n_members,), int64, or None, default=None
        How often the selection added each member, in the ratio of the weights; 1 for
        equal weights. None for other weights, and for selections that do not add
        members one by one.
    best_score : float or None, default=None
        Score of the best single member, or of the base if that is not worse. Unlike an
        entry of ``scores`` it has no rounding error; None without a selection.
    base_score : float or None, default=None
        Score of the base alone; None unless the selection needs one.
    params : mapping of str to number or None, default=None
        Chosen parameters of the rule; None without ranges, or for a single member.
    """

    weights: Float64
    scores: Float64 | None = None
    best_index: int | None = None
    score: float | None = None
    history: tuple[Trial, ...] = ()
    counts: Counts | None = None
    best_score: float | None = None
    base_score: float | None = None
    params: Mapping[str, float] | None = None


def resolve_weights(
    weights: ArrayLike | str | None,
    n_members: int,
    score: Score | None = None,
    *,
    signed: bool = False,
    weight_sum_matters: bool = False,
    rule: str | None = None,
    **params: Any,
) -> SelectionResult:
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
    weight_sum_matters : bool, default=False
        Whether the sum of the weights affects the result. If so, weights in an array
        are scored as they are and may sum to zero, otherwise divided by their sum.
    rule : str or None, default=None
        Name of the rule that takes the weights, for the messages; None names none.
    **params
        Parameters of the selection.

    Returns
    -------
    SelectionResult

    Raises
    ------
    ValueError
        If weights are not valid (see `check_weights`), the name or a parameter is
        unknown, a selection is used without a score, or a score is not finite.
    TypeError
        If ``params`` are passed without a selection.

    Warns
    -----
    UserWarning
        If a selection from several members does not beat the best single member.

    Examples
    --------
    >>> result = resolve_weights("greedy", 2, lambda weights: -abs(weights[1] - 0.5))
    >>> result.weights, result.score, result.scores
    (array([0.5, 0.5]), -0.0, array([-0.5, -0.5]))
    """
    if isinstance(weights, str):
        selection = lookup(SELECTIONS, weights)
        result = run_selection(selection, n_members, score, **params)
        warn_if_no_gain(selection, result)
        return result
    if params:
        raise TypeError(
            f"parameters {', '.join(params)} must go with a selection's name as "
            f"weights, found weights={weights!r}"
        )
    values = check_weights(
        weights,
        n_members,
        signed=signed,
        weight_sum_matters=weight_sum_matters,
        rule=rule,
    )
    counts = np.ones(n_members, np.int64) if weights is None else None
    if score is None:
        return SelectionResult(values, counts=counts)
    cached = CachedScore(score)
    scores = cached.member_scores(n_members)
    if counts is not None and not weight_sum_matters:
        value = cached.score_counts(counts)
    else:
        value = cached(values if weight_sum_matters else values / math.fsum(values))
    best_index = int(np.argmax(scores))
    return SelectionResult(values, scores, best_index, value, counts=counts)


def run_selection(
    selection: Selection, n_members: int, score: Score | None, **params: Any
) -> SelectionResult:
    """Choose weights by a selection, and score them and each member alone.

    Parameters
    ----------
    selection : Selection
        Entry of the table `SELECTIONS`.
    n_members : int, at least 1
        Number of members, without a base.
    score : Score or None
        Score of weights; greater is better. None is an error.
    **params
        Parameters of the selection.

    Returns
    -------
    SelectionResult

    Raises
    ------
    ValueError
        If ``score`` is None or returns a value that is not finite, or a parameter is
        unknown.
    """
    if score is None:
        raise ValueError(
            f"weights={selection.name!r} must have a score to choose by, found "
            "none; pass data to score on, or the weights themselves"
        )
    selection.check_params(n_members, params)
    cached, history = CachedScore(score), list[Trial]()
    scores = cached.member_scores(n_members)
    chosen = selection.function(n_members, cached, record=history.append, **params)
    if not isinstance(chosen, Trial):
        chosen = _scored(np.asarray(chosen), cached)
    best_index = int(np.argmax(scores))
    best_score = cached(np.eye(n_members)[best_index])  # gains may be estimates
    base_score = None
    if selection.needs_base:
        base_score = cached(np.zeros(n_members))
        best_score = max(best_score, base_score)
    return SelectionResult(
        chosen.weights,
        scores,
        best_index,
        chosen.score,
        tuple(history),
        chosen.counts,
        best_score,
        base_score,
        chosen.params,
    )


def _scored(chosen: Any, score: CachedScore) -> Trial:
    """Weights or counts that a selection returned, with their score."""
    if chosen.dtype.kind != "i":
        return Trial(chosen, score(chosen))
    return Trial(chosen / chosen.sum(), score.score_counts(chosen), chosen)


def warn_if_no_gain(
    selection: Selection, result: SelectionResult, names: Sequence[str] | None = None
) -> None:
    """Warn if a selection from several members did not beat the best single one.

    Parameters
    ----------
    selection : Selection
        Selection that chose the weights.
    result : SelectionResult
        Return value of `run_selection`.
    names : sequence of str or None, default=None
        Names of the members; None uses their indices.

    Warns
    -----
    UserWarning
        If the weights do not score better than the best single member, or the base.
    """
    assert result.score is not None
    assert result.best_score is not None
    if selection.single_member or result.score > result.best_score:
        return
    if len(result.weights) == 1 and result.base_score is None:
        return
    index = int(result.best_index or 0)
    best = f"member {index if names is None else repr(names[index])}"
    if result.best_score == result.base_score:
        best = "the base"
    warn_caller(
        f"selection {selection.name!r} did not beat the best member: its weights score "
        f"{result.score:.6g}, {best} alone {result.best_score:.6g}; use that member, "
        "or add more diverse members"
    )
