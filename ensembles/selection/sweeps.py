"""Sweeps: all windows of members in their order, or all weights in a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Counts, Float64
from ensembles.registry import register
from ensembles.selection.score import CachedScore, Trial
from ensembles.selection.table import SELECTIONS, Record, check_integer
from ensembles.weights import check_weights


def _check_windows(n_members: int, *, length: int | None) -> None:
    """Raise if the parameter of `windows` is not valid."""
    if length is not None:
        check_integer(length=length)
    if length is not None and not 1 <= length <= n_members:
        raise ValueError(
            f"length must be from 1 to the number of members, {n_members}, found "
            f"{length}"
        )


@register(
    SELECTIONS, check=_check_windows, symmetric=False, n_scores=lambda n: 2 * n - 1
)
def windows(
    n_members: int, score: CachedScore, *, length: int | None = None, record: Record
) -> Counts:
    """Equal weights on the window of consecutive members that scores best.

    Members are in order, such as the checkpoints of a training run. Among equals the
    first window wins; the result is the best single member if it scores better.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better. Called for each member alone and for each
        window.
    length : int from 1 to n_members, or None, default=None
        Number of members in a window, which slides from the first member to the last.
        None tries the windows that end at the last member, from that member alone to
        all members.
    record : callable
        Called with the `Trial` of each window, in this order.

    Returns
    -------
    ndarray of shape (n_members,), int64
        1 for each member of the window, 0 for the others.

    Raises
    ------
    ValueError
        If ``length`` is out of range or a score is not finite.
    TypeError
        If ``length`` is not an integer.

    References
    ----------
    Kaddour (2022), "Stop wasting my time! Saving days of ImageNet and BERT training
    with latest weight averaging", arXiv:2209.14981; Ajroldi, Orvieto and Geiping
    (2025), "When, where and why to average weights?", ICML, arXiv:2502.06761, for the
    choice of the window.
    """
    scores = score.member_scores(n_members)
    if length is None:
        rows = np.tri(n_members, dtype=np.int64)[:, ::-1]
    else:
        starts = np.arange(n_members - length + 1)[:, None]
        place = np.arange(n_members) - starts
        rows = ((place >= 0) & (place < length)).astype(np.int64)
    trials = []
    for counts in rows:
        weights = counts / counts.sum()
        trials.append(Trial(weights, score.score_counts(counts), counts.copy()))
        record(trials[-1])
    best = max(trials, key=lambda trial: trial.score)
    if scores.max() > best.score:
        return np.asarray(np.eye(n_members, dtype=np.int64)[np.argmax(scores)])
    return np.asarray(best.counts)


def _check_listed(n_members: int, *, candidates: Sequence[ArrayLike] | None) -> None:
    """Raise if the parameter of `listed` is not valid."""
    _normalized(n_members, candidates)


@register(SELECTIONS, check=_check_listed, symmetric=False, n_scores=lambda n: n + 1)
def listed(
    n_members: int,
    score: CachedScore,
    *,
    candidates: Sequence[ArrayLike] | None = None,
    record: Record,
) -> Float64:
    """Weights that score best among listed ones.

    Among equals the first in the list wins; the result is the best single member if it
    scores better.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better. Called for each member alone and for each
        entry of the list.
    candidates : sequence of array-like of shape (n_members,), or None, default=None
        Weights to try, non-negative, such as those of several schedules; each is
        divided by its sum. None tries equal weights alone.
    record : callable
        Called with the `Trial` of each entry, in the order of the list.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, sum 1

    Raises
    ------
    ValueError
        If the list is empty, weights in it are invalid, or a score is not finite.
    TypeError
        If weights in the list are not numbers.

    References
    ----------
    Stone (1974), "Cross-validatory choice and assessment of statistical predictions",
    Journal of the Royal Statistical Society B 36.
    """
    scores = score.member_scores(n_members)
    trials = []
    for weights in _normalized(n_members, candidates):
        trials.append(Trial(weights, score(weights)))
        record(trials[-1])
    best = max(trials, key=lambda trial: trial.score)
    if scores.max() > best.score:
        return np.asarray(np.eye(n_members)[np.argmax(scores)])
    return best.weights


def _normalized(n_members: int, candidates: Any) -> list[Float64]:
    """Candidates as arrays with sum 1."""
    rows = [None] if candidates is None else list(candidates)
    if not rows:
        raise ValueError("candidates must be at least one list of weights, found none")
    checked = [check_weights(row, n_members, rule="listed") for row in rows]
    return [weights / weights.sum() for weights in checked]
