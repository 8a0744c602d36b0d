"""Score of combined members on held-out data, which selections maximize."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import rows_of, warn_user
from ensembles._typing import Counts, Float64
from ensembles.checkpoints.model_soup.merged_estimator import Merged
from ensembles.checkpoints.model_soup.training import Training

Part = tuple[Any, Any, Mapping[str, Any]]  # X, y, keyword arguments of the scorer
Split = tuple[Counts, Counts]  # indices of training rows, of held-out rows
LOWEST = -1e100  # score of a failure before the first success
HELD_OUT = 0.2  # share of the samples held out to choose weights


class SoupScore:
    """Mean score of a combination over parts of the data, cached by its weights.

    Parameters
    ----------
    merged : Merged
        Members, and the estimator that receives their combined parameters.
    scorer : callable (estimator, X, y, **params) -> float
        Score of the estimator on one part; greater is better.
    parts : sequence of (X, y, params)
        Samples, targets and keyword arguments of the scorer, for each part.
    on_error : {"stop", "skip"}, default="stop"
        With "stop" an error of the scorer is raised; with "skip" the combination gets
        a score below all previous ones, with a warning.
    """

    def __init__(
        self,
        merged: Merged,
        scorer: Callable[..., float],
        parts: Sequence[Part],
        on_error: str = "stop",
    ) -> None:
        self._on_error = on_error
        self.merged = merged
        self._scorer = scorer
        self.parts = parts
        self._known: dict[bytes, float] = {}

    def __call__(self, weights: Float64) -> float:
        key = weights.tobytes()
        if key not in self._known:
            estimator = self.merged.put(weights)
            with without_gradients():
                try:
                    found = [
                        float(self._scorer(estimator, X, y, **params))
                        for X, y, params in self.parts
                    ]
                except Exception as error:
                    found = [self._failed(weights, error)]
            self.merged.lent()
            self._known[key] = float(np.mean(found))
        return self._known[key]

    def _failed(self, weights: Float64, error: Exception) -> float:
        """Score below all previous ones, or the error if failures are not allowed."""
        shares = weights if weights.ndim == 1 else weights.max(1)
        names = [self.merged.members[i].name for i in np.flatnonzero(shares)]
        named = " + ".join(names)
        if self._on_error == "stop":
            error.add_note(
                f"this was the score of {named}; params={{'on_error': 'skip'}} goes on "
                "without it"
            )
            raise error
        warn_user(f"{named} could not be scored, and counts as the worst: {error}")
        lowest = min(self._known.values(), default=LOWEST)
        return max(LOWEST, lowest - max(1.0, abs(lowest)))


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
                "X must hold as many rows in each of its arrays, found "
                f"{ {name: n_rows(value) for name, value in X.items()} }"
            )
        return sizes.pop()
    if not (hasattr(X, "__getitem__") or hasattr(X, "__array__")):
        raise TypeError(
            "X must be arrays, a sequence of samples or a mapping of arrays, of which "
            f"rows can be taken, found a {type(X).__name__}; give what it iterates over"
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


def without_gradients() -> AbstractContextManager[Any]:
    """Context that disables gradients of PyTorch, if it is imported.

    Returns
    -------
    context manager
    """
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.no_grad()


class Splits(NamedTuple):
    """Settings for held-out samples.

    Parameters
    ----------
    cv : int, splitter, iterable of splits or None
        As in `sklearn.model_selection.check_cv`; None holds out a fifth, once.
    is_classifier : bool
        Whether splits are stratified by class, where possible.
    seed : int or None
        Seed of the split if ``cv`` is None; None draws a new one.
    """

    cv: Any
    is_classifier: bool
    seed: int | None

    def of(self, X: Any, y: Any, params: Mapping[str, Any]) -> list[Split]:
        """Splits of the samples; without ``cv``, one that holds out a fifth."""
        from sklearn.model_selection import (
            ShuffleSplit,
            StratifiedShuffleSplit,
            check_cv,
        )

        if self.cv is None:
            draw = StratifiedShuffleSplit if self._can_stratify(y) else ShuffleSplit
            cv = draw(1, test_size=HELD_OUT, random_state=self.seed)
            return [self._learnable(train, test, y) for train, test in cv.split(X, y)]
        checked = check_cv(self.cv, y, classifier=self.is_classifier)
        return list(checked.split(X, y, **params))

    def _learnable(self, train: Counts, test: Counts, y: Any) -> Split:
        """Move held-out rows of classes without a training row to the training rows."""
        if not self.is_classifier or np.ndim(y) != 1:
            return train, test
        labels = np.asarray(y)
        lost = ~np.isin(labels[test], labels[train])
        if lost.all():
            raise ValueError(
                f"a fifth of {len(labels)} samples must be held out, of classes that "
                "the rest has too; found too few of each; give cv, or more samples"
            )
        return np.concatenate([train, test[lost]]), test[~lost]

    def _can_stratify(self, y: Any) -> bool:
        """Whether each class has enough samples for both sides of the split."""
        from sklearn.utils.multiclass import type_of_target

        if not self.is_classifier or type_of_target(y) not in ("binary", "multiclass"):
            return False
        _, counts = np.unique(np.asarray(y), return_counts=True)
        n_held = int(np.ceil(HELD_OUT * counts.sum()))
        return bool(counts.min() > 1 and n_held >= len(counts))


def parts_of(
    X: Any, y: Any, splits: Splits, routed: Any, *, has_data: bool = False
) -> list[Part]:
    """Parts of the data that a combination is scored on.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...)
        Samples and targets; either may be None.
    splits : Splits
        Splits whose held-out samples are the parts; without ``cv``, all samples are
        one part.
    routed : Bunch
        Metadata by consumer, as from `sklearn.utils.metadata_routing.process_routing`.
    has_data : bool, default=False
        Whether the scorer may bring its own data, so that ``X`` may be None.

    Returns
    -------
    list of (X, y, params)

    Raises
    ------
    ValueError
        If there are no samples, and the scorer needs them.
    """
    if X is None and has_data and splits.cv is None:
        return [(X, y, _of(routed, "scorer", "score"))]
    if X is None:
        raise ValueError(
            "weights must be chosen, or scored, by data: fit(X, y) with samples that "
            "no member has seen; found none"
        )
    from sklearn.utils import indexable

    if splits.cv is None:
        return [(X, y, _of(routed, "scorer", "score"))]
    size = n_rows(X)
    if isinstance(X, Mapping):
        rows: Any = np.arange(size)
        rows, y = indexable(rows, y)
    else:
        X, y = indexable(X, y)
        rows = X
    found = splits.of(rows, y, _of(routed, "splitter", "split"))
    return [_part(X, y, test, routed) for _, test in found]


def held_out(
    training: Training, splits: Splits, routed: Any
) -> tuple[Training, list[Part]]:
    """Split the data into training data of the members and one part for scores.

    Parameters
    ----------
    training : Training
        All data.
    splits : Splits
        Settings that give exactly one split.
    routed : Bunch
        Metadata by consumer, as in `parts_of`.

    Returns
    -------
    Training
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

    X, y = indexable(training.X, training.y)
    found = splits.of(X, y, _of(routed, "splitter", "split"))
    if len(found) != 1:
        raise ValueError(
            "cv must hold out once where the soup makes its members, found "
            f"{len(found)} splits; ShuffleSplit(1) does"
        )
    train, test = found[0]
    params = rows_of(training.params, train, _num_samples(X))
    targets = None if y is None else _safe_indexing(y, train)
    kept = Training(_safe_indexing(X, train), targets, params)
    return kept, [_part(X, y, test, routed)]


def _part(X: Any, y: Any, rows: Counts, routed: Any) -> Part:
    params = rows_of(_of(routed, "scorer", "score"), rows, n_rows(X))
    targets = None if y is None else take_rows(y, rows)
    return take_rows(X, rows), targets, params


def _of(routed: Any, name: str, method: str) -> dict[str, Any]:
    return dict(routed[name][method]) if name in routed else {}
