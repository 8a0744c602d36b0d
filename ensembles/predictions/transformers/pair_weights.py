"""Weights of transformers, chosen on rated pairs and judged on other pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils import _safe_indexing, check_array

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitting.weight_fitting import warn_if_no_gain
from ensembles.predictions.transformers.pair_cosines import PairProducts, PairScore
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import SelectionResult, run_selection

N_FOLDS = 5
MIN_PAIRS = 10  # with fewer, the correlation within a fold is of one pair


class SamplePairs(NamedTuple):
    """Distinct samples, and rated pairs of them.

    Parameters
    ----------
    samples : list or ndarray of shape (n_samples, ...)
        Samples for the members.
    first, second : ndarray of shape (n_pairs,), int64
        Rows of both samples of each pair.
    ratings : ndarray of shape (n_pairs,)
        Rating of each pair; greater is more similar.
    """

    samples: Any
    first: Counts
    second: Counts
    ratings: Float64


class PairWeights(NamedTuple):
    """Chosen weights, and mean scores of folds that did not choose them.

    Parameters
    ----------
    selected : SelectionResult
        Weights chosen on all pairs, with scores on the same pairs.
    score : float
        Mean score of the folds, each with weights chosen on the other folds.
    best_score : float
        The same for the single member that is best on the other folds.
    equal_score : float
        Mean score of the folds with equal weights.
    """

    selected: SelectionResult
    score: float
    best_score: float
    equal_score: float


def check_pairs(X: Any, y: Any, selection: str) -> SamplePairs:
    """Validate rated pairs, and list their samples once each.

    Parameters
    ----------
    X : sequence, array or dataframe of shape (n_pairs, 2) or (n_pairs, 2, ...)
        Pairs of samples, such as texts.
    y : array-like of shape (n_pairs,)
        Ratings.
    selection : str
        Name of the selection, for the messages.

    Returns
    -------
    SamplePairs

    Raises
    ------
    ValueError
        If an entry of ``X`` is not a pair, ratings are missing, not finite or all
        equal, or there are fewer than ten pairs.
    """
    where = f"for weights={selection!r}"
    if y is None:
        raise ValueError(
            f"fit must get rated pairs {where}: X of shape (n_pairs, 2) and y, a "
            "rating of each pair; found no y"
        )
    sides = _sides(X, where)
    ratings = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    n_pairs = len(sides[0])
    if ratings.shape != (n_pairs,):
        raise ValueError(
            f"y must be one rating for each of {n_pairs} pairs {where}: found shape "
            f"{ratings.shape}"
        )
    if n_pairs < MIN_PAIRS or len(np.unique(ratings)) < 2:
        raise ValueError(
            f"fit must get at least {MIN_PAIRS} pairs, with at least two different "
            f"ratings, {where}: found {n_pairs} pairs with "
            f"{len(np.unique(ratings))} different ratings"
        )
    rows = np.arange(n_pairs)
    if isinstance(sides[0], np.ndarray):
        return SamplePairs(np.concatenate(sides), rows, rows + n_pairs, ratings)
    samples, row_of = [*sides[0], *sides[1]], dict[Any, int]()
    try:
        indices = [row_of.setdefault(sample, len(row_of)) for sample in samples]
    except TypeError:  # samples that cannot be hashed, such as lists of tokens
        return SamplePairs(samples, rows, rows + n_pairs, ratings)
    first, second = np.split(np.array(indices), 2)
    return SamplePairs(list(row_of), first, second, ratings)


def _sides(X: Any, where: str) -> tuple[Any, Any]:
    """First and second samples: arrays if samples are arrays, otherwise lists."""
    shape = getattr(X, "shape", None)
    if shape is not None:
        if len(shape) < 2 or shape[1] != 2:
            raise ValueError(
                f"X must be pairs of samples, of shape (n_pairs, 2), {where}: found "
                f"shape {tuple(shape)}"
            )
        if len(shape) > 2:
            return X[:, 0], X[:, 1]
        first, second = (_safe_indexing(X, side, axis=1) for side in (0, 1))
        return list(first), list(second)
    pairs = list(X)
    for index, pair in enumerate(pairs):
        if isinstance(pair, str | bytes) or not hasattr(pair, "__len__"):
            found = f"{pair!r:.60}"
        elif len(pair) != 2:
            found = f"{len(pair)} entries"
        else:
            continue
        raise ValueError(
            f"X must be pairs of samples {where}: X[{index}] is {found}; pass "
            "list(zip(first, second))"
        )
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def choose_weights(
    selection: str,
    params: Mapping[str, Any],
    products: PairProducts,
    ratings: Float64,
    names: list[str],
) -> PairWeights:
    """Choose weights on rated pairs, and judge the choice by cross-validation.

    Parameters
    ----------
    selection : str
        Name of a selection in `ensembles.selection.SELECTIONS`.
    params : mapping of str to value
        Parameters of the selection.
    products : PairProducts
        Inner products of the members' vectors of the pairs.
    ratings : ndarray of shape (n_pairs,)
        Rating of each pair.
    names : list of str
        Names of the members, for the warning.

    Returns
    -------
    PairWeights

    Warns
    -----
    UserWarning
        If the weights do not beat the best member on the folds that did not choose
        them.
    """
    n_members = products.n_members

    def choose(score: PairScore) -> SelectionResult:
        return run_selection(SELECTIONS[selection], n_members, score, **params)

    scores = []
    folds = KFold(N_FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(ratings):
        chosen = choose(PairScore(products.subset(train), ratings[train]))
        score = PairScore(products.subset(test), ratings[test])
        best = np.eye(n_members)[int(chosen.best_index or 0)]
        equal = np.full(n_members, 1 / n_members)
        scores.append([score(chosen.weights), score(best), score(equal)])
    selected = choose(PairScore(products, ratings))
    means = np.mean(scores, axis=0)
    if n_members > 1:
        best_name = names[int(selected.best_index or 0)]
        warn_if_no_gain(selection, float(means[0]), float(means[1]), best_name)
    return PairWeights(selected, *map(float, means))
