"""Combined predictions of rows, learned on the other folds of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold, Split
from ensembles.predictions.members.outputs import ClassOutputs, Predictions

N_FOLDS = 5  # at most: more folds are merged, so that weights are learned 6 times
MAX_ROWS = 5000  # to learn from, for a score: with more, weights hardly differ
# (out-of-fold predictions of some rows, indices of these rows)
# -> combiner, its weights, index of the best member
Learn = Callable[[OutOfFold, Counts], tuple[FittedCombiner, Float64, int]]


def cross_fit(
    out_of_fold: OutOfFold, learn: Learn
) -> tuple[Predictions, Predictions] | None:
    """Combined predictions of each row, with weights learned from the other folds.

    The members are not fitted again. A score of weights on the rows that they were
    learned from is too optimistic, in particular with many members or few rows.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members.
    learn : callable
        ``(out_of_fold, rows) -> (combiner, weights, best_index)``: learns from the rows
        of a fold's training part, which it gets as predictions and as indices.

    Returns
    -------
    combined, best : list of ndarrays of shape (n_samples, n_columns), or None
        One array per output: predictions of the ensemble, and of the single member
        that is best on the other folds. None if the rows cannot be divided.

    References
    ----------
    Stone (1974), "Cross-validatory choice and assessment of statistical predictions",
    Journal of the Royal Statistical Society B 36.
    """
    folds = weight_folds(out_of_fold)
    if folds is None:
        return None
    combined, best = (
        [np.empty(stack.shape[1:]) for stack in out_of_fold.stacks] for _ in range(2)
    )
    for train, test in folds:
        combiner, weights, best_index = learn(out_of_fold.subset(train), train)
        stacks = [stack[:, test] for stack in out_of_fold.stacks]
        ensemble_predictions = combiner(stacks, weights)
        without_intercepts = replace(combiner, intercepts=None, final=None)
        best_predictions = without_intercepts(
            stacks, np.eye(out_of_fold.n_members)[best_index]
        )
        for output in range(len(stacks)):
            combined[output][test] = ensemble_predictions[output]
            best[output][test] = best_predictions[output]
    return combined, best


def weight_folds(out_of_fold: OutOfFold) -> list[Split] | None:
    """Splits of the held-out rows into training and test rows of the weights.

    Uses the folds in which the rows were held out from the members, merged to at most
    `N_FOLDS`. If there is only one fold, or a training part lacks a class, stratified
    folds are used. A training part is reduced to a random sample of `MAX_ROWS` rows, to
    limit the time of a slow scorer.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions, with folds and sample weights.

    Returns
    -------
    list of (train, test), or None
        Row indices; None if a class has too few rows.
    """
    rows = np.arange(len(out_of_fold.y))
    folds = rows * 0 if out_of_fold.folds is None else out_of_fold.folds
    folds = np.unique(folds, return_inverse=True)[1]
    n_folds = min(folds.max(initial=0) + 1, N_FOLDS)
    folds = folds * n_folds // (folds.max(initial=0) + 1)
    by_fold = [(rows[folds != fold], rows[folds == fold]) for fold in range(n_folds)]
    for splits in (by_fold, stratified_folds(out_of_fold)):
        if len(splits) > 1 and all(_has_classes(out_of_fold, t) for t, _ in splits):
            return [(_sample(out_of_fold, train), test) for train, test in splits]
    return None


def _sample(out_of_fold: OutOfFold, train: Counts) -> Counts:
    """Random sample of at most `MAX_ROWS` rows; all rows if a class would be lost."""
    if len(train) <= MAX_ROWS:
        return train
    sample_rows = np.random.default_rng(0).choice(train, MAX_ROWS, replace=False)
    sample = np.sort(sample_rows)
    return sample if _has_classes(out_of_fold, sample) else train


def stratified_folds(out_of_fold: OutOfFold) -> list[Split]:
    """Folds stratified by class and positive weight; plain folds for regression.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions, with true targets and sample weights.

    Returns
    -------
    list of (train, test)
        Row indices, in at most `N_FOLDS` folds; empty if the rows cannot be divided.
    """
    rows, weight = np.arange(len(out_of_fold.y)), out_of_fold.sample_weight
    groups = rows * 0 if weight is None else (weight > 0).astype(np.int64)
    outputs = out_of_fold.outputs
    if isinstance(outputs, ClassOutputs) and outputs.n_outputs == 1:
        groups = groups + 2 * outputs.encode(out_of_fold.y)[0]
        n_folds = min(N_FOLDS, int(np.bincount(groups).max(initial=0)))
    else:
        n_folds = min(N_FOLDS, len(rows))
    if n_folds < 2:
        return []
    if not isinstance(outputs, ClassOutputs):
        return list(KFold(n_folds).split(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with fewer rows than folds
        return list(StratifiedKFold(n_folds).split(rows, groups))


def _has_classes(out_of_fold: OutOfFold, train: Counts) -> bool:
    """Whether the training rows with positive weight have every class to learn."""
    weight = out_of_fold.sample_weight
    weight = np.ones(len(out_of_fold.y)) if weight is None else weight
    weighted = train[weight[train] > 0]
    if len(weighted) < 2:
        return False
    if not isinstance(out_of_fold.outputs, ClassOutputs):
        return True
    return all(
        np.isin(codes[weight > 0], codes[weighted]).all()
        for codes in out_of_fold.outputs.encode(out_of_fold.y)
    )
