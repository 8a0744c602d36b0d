"""What a scorer says of members combined: the score that selections climb."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from ensembles.base import rows_of
from ensembles.checkpoints.growing import Training
from ensembles.checkpoints.merging import Merged
from ensembles.weighting import Counts, Floats

Part = tuple[Any, Any, Mapping[str, Any]]  # X, y, and what the scorer gets besides
Split = tuple[Counts, Counts]  # rows that are left, rows that are held out
HELD_OUT = 0.2  # share of the samples that weights are chosen by


class SoupScore:
    """Mean score of a combination over parts of the data; each is scored once.

    Parameters
    ----------
    merged : Merged
    scorer : callable (estimator, X, y, **params) -> float
    parts : sequence of (X, y, params)
    """

    def __init__(
        self, merged: Merged, scorer: Callable[..., float], parts: Sequence[Part]
    ) -> None:
        self.merged = merged
        self._scorer = scorer
        self.parts = parts
        self._known: dict[bytes, float] = {}

    def __call__(self, weights: Floats) -> float:
        key = weights.tobytes()
        if key not in self._known:
            estimator = self.merged.put(weights)
            with without_gradients():
                found = [
                    float(self._scorer(estimator, X, y, **params))
                    for X, y, params in self.parts
                ]
            self.merged.lent()
            self._known[key] = float(np.mean(found))
        return self._known[key]


def without_gradients() -> AbstractContextManager[Any]:
    """Context in which torch, if it is loaded, records nothing.

    Returns
    -------
    context manager
    """
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.no_grad()


class Splits(NamedTuple):
    """How samples are held out.

    Parameters
    ----------
    cv : int, splitter, iterable of splits or None
    is_classifier : bool
    seed : int or None
    """

    cv: Any
    is_classifier: bool
    seed: int | None

    def of(self, X: Any, y: Any, params: Mapping[str, Any]) -> list[Split]:
        """Splits of the samples; with None, one that holds out a fifth."""
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
        """The same rows, but that what is held out alone of a class is left."""
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
        """Whether each class can be on both sides."""
        from sklearn.utils.multiclass import type_of_target

        if not self.is_classifier or type_of_target(y) not in ("binary", "multiclass"):
            return False
        _, counts = np.unique(np.asarray(y), return_counts=True)
        n_held = int(np.ceil(HELD_OUT * counts.sum()))
        return bool(counts.min() > 1 and n_held >= len(counts))


def parts_of(X: Any, y: Any, splits: Splits, routed: Any) -> list[Part]:
    """What a combination is scored on.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...)
    splits : Splits
        With no ``cv`` all samples are scored.
    routed : Bunch
        Metadata by who asked for them.

    Returns
    -------
    list of (X, y, params)

    Raises
    ------
    ValueError
        If there are no samples.
    """
    if X is None:
        raise ValueError(
            "weights must be chosen, or scored, by data: fit(X, y) with samples that "
            "no member has seen; found none"
        )
    from sklearn.utils import indexable

    if splits.cv is None:
        return [(X, y, _of(routed, "scorer", "score"))]
    X, y = indexable(X, y)
    found = splits.of(X, y, _of(routed, "splitter", "split"))
    return [_part(X, y, test, routed) for _, test in found]


def held_out(
    training: Training, splits: Splits, routed: Any
) -> tuple[Training, list[Part]]:
    """What members are trained on, and the rest.

    Parameters
    ----------
    training : Training
    splits : Splits
    routed : Bunch

    Returns
    -------
    Training, list of (X, y, params)

    Raises
    ------
    ValueError
        If there is more than one split.
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
    from sklearn.utils import _safe_indexing
    from sklearn.utils.validation import _num_samples

    params = rows_of(_of(routed, "scorer", "score"), rows, _num_samples(X))
    targets = None if y is None else _safe_indexing(y, rows)
    return _safe_indexing(X, rows), targets, params


def _of(routed: Any, name: str, method: str) -> dict[str, Any]:
    return dict(routed[name][method]) if name in routed else {}
