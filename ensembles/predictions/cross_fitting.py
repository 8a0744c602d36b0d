"""Cross-fitting: weights learned on some folds of the rows, applied to the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.members.fitting import Split
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs, Predictions

N_FOLDS = 5  # at most: more folds are merged, so that weights are learned 6 times
MOST_ROWS = 5000  # to learn from, for a score: with more, weights hardly differ
# (part, its row indices) -> combination, its weights, index of the best member
Learn = Callable[[OutOfFold, Counts], tuple[FittedCombiner, Float64, int]]


def cross_fitted(
    held: OutOfFold, learn: Learn
) -> tuple[Predictions, Predictions] | None:
    """Combined predictions of each row, with weights learned from the other folds.

    The members are not fitted again. A score of weights on the rows that they were
    learned from is too optimistic, the more so with more members and with fewer rows.

    Parameters
    ----------
    held : OutOfFold
        Held-out predictions of the members.
    learn : callable
        ``(held, rows) -> (combination, weights, best_index)``: learns from the rows of
        a fold's training part, which it gets as predictions and as indices.

    Returns
    -------
    combined, best : list of ndarrays of shape (n_samples, n_columns), or None
        One array per output: predictions of the combination, and of the single member
        that is best on the other folds. None if the rows cannot be divided.

    References
    ----------
    Stone (1974), "Cross-validatory choice and assessment of statistical predictions",
    Journal of the Royal Statistical Society B 36.
    """
    folds = folds_to_learn(held)
    if folds is None:
        return None
    shapes = [stack.shape[1:] for stack in held.stacks]
    combined, best = ([np.empty(shape) for shape in shapes] for _ in range(2))
    for train, test in folds:
        combination, weights, member = learn(held.rows(train), train)
        stacks = [stack[:, test] for stack in held.stacks]
        alone = np.eye(held.n_members)[member]
        plain = replace(combination, intercepts=None)
        pairs = (
            (combined, combination(stacks, weights)),
            (best, plain(stacks, alone)),
        )
        for made, answer in pairs:
            for out, part in zip(made, answer, strict=True):
                out[test] = part
    return combined, best


def folds_to_learn(held: OutOfFold) -> list[Split] | None:
    """Splits of the held-out rows into training and test rows of the weights.

    The folds in which the members did not see the rows, merged to at most `N_FOLDS`. If
    there is only one, or a training part lacks a class, stratified folds are used. Of
    more than `MOST_ROWS` training rows a random sample of this size is used, to limit
    the time of a slow scorer.

    Parameters
    ----------
    held : OutOfFold
        Held-out predictions, with folds and sample weights.

    Returns
    -------
    list of (train, test), or None
        Row indices; None if a class has too few rows.
    """
    every = np.arange(len(held.y))
    folds = every * 0 if held.folds is None else held.folds
    places = np.unique(folds, return_inverse=True)[1]
    n_folds = min(places.max(initial=0) + 1, N_FOLDS)
    places = places * n_folds // (places.max(initial=0) + 1)
    by_fold = [(every[places != k], every[places == k]) for k in range(n_folds)]
    for splits in (by_fold, _spread(held)):
        if len(splits) > 1 and all(_suffices(held, train) for train, _ in splits):
            return [(_thinned(held, train), test) for train, test in splits]
    return None


def _thinned(held: OutOfFold, train: Counts) -> Counts:
    """Random sample of at most `MOST_ROWS` rows; all rows if a class would be lost."""
    if len(train) <= MOST_ROWS:
        return train
    drawn = np.random.default_rng(0).choice(train, MOST_ROWS, replace=False)
    some = np.sort(drawn)
    return some if _suffices(held, some) else train


def _spread(held: OutOfFold) -> list[Split]:
    """Folds stratified by class and positive weight; plain folds for regression."""
    every, weight = np.arange(len(held.y)), held.sample_weight
    groups = every * 0 if weight is None else (weight > 0).astype(np.int64)
    labels = held.outputs
    if isinstance(labels, ClassOutputs) and labels.n_outputs == 1:
        groups = groups + 2 * labels.encode(held.y)[0]
        n_folds = min(N_FOLDS, int(np.bincount(groups).max(initial=0)))
    else:
        n_folds = min(N_FOLDS, len(every))
    if n_folds < 2:
        return []
    if not isinstance(labels, ClassOutputs):
        return list(KFold(n_folds).split(every))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with fewer rows than folds
        return list(StratifiedKFold(n_folds).split(every, groups))


def _suffices(held: OutOfFold, train: Counts) -> bool:
    """Whether the training rows with positive weight have every class to learn."""
    weight = np.ones(len(held.y)) if held.sample_weight is None else held.sample_weight
    heavy = train[weight[train] > 0]
    if len(heavy) < 2:
        return False
    if not isinstance(held.outputs, ClassOutputs):
        return True
    return all(
        np.isin(codes[weight > 0], codes[heavy]).all()
        for codes in held.outputs.encode(held.y)
    )
