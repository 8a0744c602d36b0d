"""Data sets for ensembles of predictions: reported ones and development ones.

Results are reported for the sets bundled with scikit-learn and for synthetic ones. The
library's defaults were chosen on `DEVELOPMENT` alone: other shapes and seeds, and small
samples of them with a large test half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets
from sklearn.model_selection import KFold, StratifiedKFold

Data = tuple[Any, Any]
Split = tuple[Any, Any]
N_FOLDS = 5
SMALL = 1000  # rows of a set that is split five times


class DataSet(NamedTuple):
    """A data set, loaded on demand.

    Parameters
    ----------
    name : str
    classes : bool
        Whether it is of classes rather than of values.
    make : callable
        ``() -> (X, y)``
    n_train : int or None, default=None
        Rows to fit on, all others to test; None splits into folds.
    """

    name: str
    classes: bool
    make: Callable[[], Data]
    n_train: int | None = None

    def load(self) -> Data:
        """Rows in random order, labels from 0."""
        X, y = self.make()
        order = np.random.default_rng(0).permutation(len(y))
        X, y = np.asarray(X, np.float64)[order], np.asarray(y)[order]
        return X, np.unique(y, return_inverse=True)[1] if self.classes else y

    def splits(self, y: Any) -> Iterator[Split]:
        """Rows to fit on and rows to test."""
        every = np.arange(len(y))
        if self.n_train is not None:
            yield every[: self.n_train], every[self.n_train :]
            return
        folds = StratifiedKFold if self.classes else KFold
        for repeat in range(5 if len(y) <= SMALL else 1):
            yield from folds(N_FOLDS, shuffle=True, random_state=repeat).split(every, y)


def _bundled(load: Callable[..., Data]) -> Callable[[], Data]:
    return lambda: load(return_X_y=True)


def _column(load: Callable[..., Data], column: int, kept: slice) -> Callable[[], Data]:
    """Regression of one column on the others."""

    def make() -> Data:
        X, _ = load(return_X_y=True)
        features = np.setdiff1d(np.arange(X.shape[1])[kept], [column])
        return X[:, features], X[:, column]

    return make


def _above_median() -> Data:
    X, y = datasets.load_diabetes(return_X_y=True)
    return X, y > np.median(y)


def _weight() -> Data:
    X, y = datasets.load_linnerud(return_X_y=True)
    return X, y[:, 0]


def _made(make: Callable[..., Data], *sizes: int, **params: Any) -> Callable[[], Data]:
    return lambda: make(*sizes, **params)


_classification = datasets.make_classification
FIVE = {"n_informative": 15, "n_redundant": 5, "n_clusters_per_class": 3}
RARE = {"n_informative": 6, "weights": [0.9], "flip_y": 0.05, "class_sep": 0.8}

CLASSES = [
    DataSet("iris", True, _bundled(datasets.load_iris)),
    DataSet("wine", True, _bundled(datasets.load_wine)),
    DataSet("breast cancer", True, _bundled(datasets.load_breast_cancer)),
    DataSet("digits", True, _bundled(datasets.load_digits)),
    DataSet("diabetes above median", True, _above_median),
    DataSet(
        "five classes, hard",
        True,
        _made(_classification, 12_000, 40, n_classes=5, random_state=0, **FIVE),
    ),
    DataSet(
        "one in ten, noisy",
        True,
        _made(_classification, 10_000, random_state=1, **RARE),
    ),
    DataSet(
        "shells",
        True,
        lambda: datasets.make_gaussian_quantiles(
            n_samples=5000, n_features=8, n_classes=4, random_state=2
        ),
    ),
]
VALUES = [
    DataSet("diabetes", False, _bundled(datasets.load_diabetes)),
    DataSet("linnerud weight", False, _weight),
    DataSet("iris petal width", False, _column(datasets.load_iris, 3, slice(4))),
    DataSet("wine alcohol", False, _column(datasets.load_wine, 0, slice(13))),
    DataSet(
        "breast worst texture",
        False,
        _column(datasets.load_breast_cancer, 21, slice(20)),
    ),
    DataSet(
        "friedman 1",
        False,
        _made(datasets.make_friedman1, 10_000, noise=1.0, random_state=0),
    ),
    DataSet(
        "friedman 2",
        False,
        _made(datasets.make_friedman2, 5000, noise=100.0, random_state=1),
    ),
    DataSet(
        "friedman 3",
        False,
        _made(datasets.make_friedman3, 5000, noise=0.1, random_state=2),
    ),
]
