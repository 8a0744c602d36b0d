"""Score of combined members on held-out data, which selections maximize."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ensembles._sklearn import index_fit_params, unwrap_frozen, warn_caller
from ensembles._typing import Counts, Float64
from ensembles.checkpoints.model_soup.merged_estimator import MergedEstimator
from ensembles.checkpoints.model_soup.training import FitData

Part = tuple[Any, Any, Mapping[str, Any]]  # X, y, keyword arguments of the scorer
Split = tuple[Counts, Counts]  # indices of training rows, of held-out rows
LOWEST = -1e100  # score of a failure before the first success
HELD_OUT = 0.2  # share of the samples held out to choose weights


class SoupScore:
    """Mean score of a combination over parts of the data.

    For a rule with a base, a member with all the weight is scored itself, and other
    weights are scaled to a mean of 1, see `scaled_weights`.

    Parameters
    ----------
    merged : MergedEstimator
        Members, and the estimator that receives their combined parameters.
    scorer : callable (estimator, X, y, **params) -> float
        Score of the estimator on one part; greater is better.
    parts : sequence of (X, y, params)
        Samples, targets and keyword arguments of the scorer, for each part.
    on_error : {"raise", "drop"}, default="raise"
        With "raise" an error of the scorer is raised; with "drop" the combination gets
        a score below all previous ones, with a warning.
    """

    def __init__(
        self,
        merged: MergedEstimator,
        scorer: Callable[..., float],
        parts: Sequence[Part],
        on_error: str = "raise",
    ) -> None:
        self.merged = merged
        self.parts = parts
        self._scorer = scorer
        self._on_error = on_error
        self._lowest: float | None = None

    def score_counts(self, counts: Counts) -> float:
        """Score of the weights ``counts / counts.sum()``.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            How often each member was added.

        Returns
        -------
        float
        """
        return self._score_chosen(counts / counts.sum(), counts)

    def __call__(self, weights: Float64) -> float:
        """Score of weights.

        Parameters
        ----------
        weights : ndarray of shape (n_members,) or (n_members, n_layers)
            Member weights, as in `MergedEstimator.set_weights`.

        Returns
        -------
        float
        """
        return self._score_chosen(weights)

    def score_given(self, weights: Float64) -> float:
        """Score of weights that the rule gets as they are.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Member weights.

        Returns
        -------
        float
        """
        return self._mean_score(self.merged.set_weights(weights), weights)

    def score_member(self, index: int | None) -> float:
        """Score of a single member, not changed by the rule.

        Parameters
        ----------
        index : int or None
            Index of the member; None is the base.

        Returns
        -------
        float
        """
        weights = np.zeros(len(self.merged.members))
        if index is not None:
            weights[index] = 1
        return self._mean_score(self.merged.set_member(index), weights)

    def _score_chosen(self, weights: Float64, counts: Counts | None = None) -> float:
        """Score of weights of a selection."""
        estimator = self.merged.set_chosen(weights, counts)
        return self._mean_score(estimator, weights)

    def _mean_score(self, estimator: Any, weights: Float64) -> float:
        """Mean score over the parts, or a low one after a failure."""
        with no_grad():
            try:
                scores = [
                    float(self._scorer(estimator, X, y, **params))
                    for X, y, params in self.parts
                ]
            except Exception as error:
                scores = [self._after_failure(weights, error)]
        score = float(np.mean(scores))
        self._lowest = score if self._lowest is None else min(score, self._lowest)
        return score

    def _after_failure(self, weights: Float64, error: Exception) -> float:
        """Score below all previous ones, or the error if failures are not allowed."""
        largest = weights if weights.ndim == 1 else weights.max(1)
        names = [self.merged.members[i].name for i in np.flatnonzero(largest)]
        combination = " + ".join(names) or "the base"
        if self._on_error == "raise":
            error.add_note(
                f"raised by the score of {combination}; pass on_error='drop' to "
                "continue without it"
            )
            raise error
        warn_caller(
            f"the score of {combination} failed, and counts as the worst: {error}"
        )
        if self._lowest is None:
            return LOWEST
        return max(LOWEST, self._lowest - max(1.0, abs(self._lowest)))


def n_rows(X: Any) -> int:
    """Number of samples in arrays, a sequence, or a mapping of them.

    Parameters
    ----------
    X : array-like, or mapping of str to array-like
        Samples; a mapping is the output of a tokenizer.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If ``X`` cannot be indexed, as a DataLoader.
    ValueError
        If the arrays of a mapping differ in length.
    """
    from sklearn.utils.validation import _num_samples

    if isinstance(X, Mapping):
        sizes = {n_rows(value) for value in X.values()}
        if len(sizes) != 1:
            raise ValueError(
                "arrays of X must have the same number of rows, found "
                f"{ {name: n_rows(value) for name, value in X.items()} }"
            )
        return sizes.pop()
    if not (hasattr(X, "__getitem__") or hasattr(X, "__array__")):
        raise TypeError(
            "X must be an array, a sequence of samples or a mapping of arrays, so that "
            f"rows can be selected, found {type(X).__name__}; pass its samples"
        )
    return int(_num_samples(X))


def take_rows(X: Any, rows: Counts) -> Any:
    """Select samples by index.

    Parameters
    ----------
    X : array-like, or mapping of str to array-like
        Samples; each array of a mapping is indexed.
    rows : ndarray of int
        Indices of the samples.

    Returns
    -------
    array-like, or dict
    """
    from sklearn.utils import _safe_indexing

    if isinstance(X, Mapping):
        return {name: take_rows(value, rows) for name, value in X.items()}
    return _safe_indexing(X, rows)


def resolve_scorer(estimator: Any, scoring: Any) -> Any:
    """Scorer of an estimator.

    Parameters
    ----------
    estimator : object
        Estimator of the soup, frozen or not.
    scoring : str, callable or None
        Name of a scorer of scikit-learn, or a scorer; None is the estimator's
        ``score``.

    Returns
    -------
    callable (estimator, X, y, **params) -> float

    Raises
    ------
    TypeError
        If ``scoring`` has another type, or is not callable for a PyTorch module.
    """
    if callable(scoring):
        return scoring
    if not isinstance(scoring, str | None):
        raise TypeError(
            f"scoring must be a single name, a callable or None, found {scoring!r}"
        )
    inner = unwrap_frozen(estimator)
    if not hasattr(inner, "get_params"):
        raise TypeError(
            "scoring must be a callable (estimator, X, y) -> float for a "
            f"{type(inner).__name__}, found {scoring!r}"
        )
    from sklearn.metrics import check_scoring

    return check_scoring(inner, scoring=scoring)


def no_grad() -> AbstractContextManager[Any]:
    """Context that disables gradients of PyTorch, if it is imported.

    Returns
    -------
    context manager
    """
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.no_grad()


def split_samples(
    X: Any,
    y: Any,
    cv: Any,
    params: Mapping[str, Any],
    *,
    is_classifier: bool,
    seed: int | None = None,
) -> list[Split]:
    """Splits of the samples; without ``cv``, one that holds out a fifth.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...)
        Samples and targets; ``y`` may be None.
    cv : int, splitter, iterable of splits or None
        As in `sklearn.model_selection.check_cv`; None holds out a fifth, once.
    params : mapping of str to value
        Keyword arguments of the splitter.
    is_classifier : bool
        Whether splits are stratified by class, where possible.
    seed : int or None, default=None
        Seed of the split if ``cv`` is None; None draws a new one.

    Returns
    -------
    list of (train, test)
        Indices of the samples.

    Raises
    ------
    ValueError
        If ``cv`` is None and no sample can be held out, because every class has too few
        samples.
    """
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit, check_cv

    if cv is not None:
        checked = check_cv(cv, y, classifier=is_classifier)
        return list(checked.split(X, y, **params))
    stratify = is_classifier and _can_stratify(y)
    splitter_class = StratifiedShuffleSplit if stratify else ShuffleSplit
    splitter = splitter_class(1, test_size=HELD_OUT, random_state=seed)
    ((train, test),) = splitter.split(X, y)
    if not is_classifier or np.ndim(y) != 1:
        return [(train, test)]
    # Held-out rows of classes without a training row become training rows.
    labels = np.asarray(y)
    unseen = ~np.isin(labels[test], labels[train])
    if unseen.all():
        raise ValueError(
            f"a fifth of the {len(labels)} samples must be held out, with classes that "
            "also occur in the rest, but each class has too few samples; pass cv, or "
            "more samples"
        )
    return [(np.concatenate([train, test[unseen]]), test[~unseen])]


def _can_stratify(y: Any) -> bool:
    """Whether each class has enough samples for both sides of the split."""
    from sklearn.utils.multiclass import type_of_target

    if type_of_target(y) not in ("binary", "multiclass"):
        return False
    _, counts = np.unique(np.asarray(y), return_counts=True)
    n_held_out = int(np.ceil(HELD_OUT * counts.sum()))
    return bool(counts.min() > 1 and n_held_out >= len(counts))


def scoring_data(
    X: Any,
    y: Any,
    cv: Any,
    routed: Any,
    *,
    is_classifier: bool,
    scorer_has_data: bool = False,
) -> list[Part]:
    """Parts of the data that combinations of given members are scored on.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...)
        Samples and targets; either may be None.
    cv : int, splitter, iterable of splits or None
        Splits whose held-out samples are the parts; with None all samples are one part.
    routed : Bunch
        Metadata by consumer, as from `sklearn.utils.metadata_routing.process_routing`.
    is_classifier : bool
        Whether splits are stratified by class.
    scorer_has_data : bool, default=False
        Whether the scorer may bring its own data, so that ``X`` may be None.

    Returns
    -------
    list of (X, y, params)

    Raises
    ------
    ValueError
        If there are no samples, and the scorer needs them.
    """
    if X is None and not (scorer_has_data and cv is None):
        raise ValueError(
            "weights must be chosen or scored on data, found X=None; call fit(X, y) "
            "with samples that no member was trained on"
        )
    if cv is None:
        return [(X, y, _metadata(routed, "scorer", "score"))]
    from sklearn.utils import indexable

    if isinstance(X, Mapping):
        rows, y = indexable(np.arange(n_rows(X)), y)
    else:
        n_rows(X)  # raises for samples that cannot be indexed
        X, y = indexable(X, y)
        rows = X
    params = _metadata(routed, "splitter", "split")
    splits = split_samples(rows, y, cv, params, is_classifier=is_classifier)
    return [_part(X, y, test, routed) for _, test in splits]


def split_training_data(
    data: FitData, cv: Any, routed: Any, *, is_classifier: bool, seed: int | None
) -> tuple[FitData, list[Part]]:
    """Split the data into training data of the members and one part for scores.

    Parameters
    ----------
    data : FitData
        All data.
    cv : int, splitter, iterable of splits or None
        Exactly one split; None holds out a fifth of the samples.
    routed : Bunch
        Metadata by consumer, as in `scoring_data`.
    is_classifier : bool
        Whether splits are stratified by class, where possible.
    seed : int or None
        Seed of the split if ``cv`` is None; None draws a new one.

    Returns
    -------
    FitData
        Data to train the members on.
    list of (X, y, params)
        The held-out part.

    Raises
    ------
    ValueError
        If the number of splits is not 1.
    """
    from sklearn.utils import _safe_indexing, indexable
    from sklearn.utils.validation import _num_samples

    X, y = indexable(data.X, data.y)
    params = _metadata(routed, "splitter", "split")
    splits = split_samples(X, y, cv, params, is_classifier=is_classifier, seed=seed)
    if len(splits) != 1:
        raise ValueError(
            "cv must have one split if the soup trains its members, found "
            f"{len(splits)} splits; pass ShuffleSplit(1), or checkpoints"
        )
    train, test = splits[0]
    fit_params = index_fit_params(data.params, train, _num_samples(X))
    targets = None if y is None else _safe_indexing(y, train)
    training_data = FitData(_safe_indexing(X, train), targets, fit_params)
    return training_data, [_part(X, y, test, routed)]


def _part(X: Any, y: Any, rows: Counts, routed: Any) -> Part:
    params = index_fit_params(_metadata(routed, "scorer", "score"), rows, n_rows(X))
    targets = None if y is None else take_rows(y, rows)
    return take_rows(X, rows), targets, params


def _metadata(routed: Any, consumer: str, method: str) -> dict[str, Any]:
    return dict(routed[consumer][method]) if consumer in routed else {}
