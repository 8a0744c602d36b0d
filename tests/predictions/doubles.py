"""Members that fail, count or say what they are told."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.naive_bayes import GaussianNB


class Counting(GaussianNB):
    """Counts its fits, of all of its clones together."""

    fits: ClassVar[Counter[str]] = Counter()

    def __init__(self, *, label: str = "", var_smoothing: float = 1e-9) -> None:
        super().__init__(var_smoothing=var_smoothing)
        self.label = label

    def fit(self, X: Any, y: Any) -> Any:
        Counting.fits[self.label] += 1
        return super().fit(X, y)


class Failing(GaussianNB):
    """Fails when it is told to: in ``fit``, in a fold, or in ``predict``."""

    def __init__(self, where: str = "nowhere") -> None:
        super().__init__()
        self.where = where

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        if self.where == "fit" or (self.where == "fold" and len(y) < 150):
            raise RuntimeError("out of memory")
        return super().fit(X, y, sample_weight)

    def predict_proba(self, X: Any) -> Any:
        if self.where == "predict":
            raise RuntimeError("out of memory")
        return super().predict_proba(X)


class Saying(ClassifierMixin, RegressorMixin, BaseEstimator):
    """Predicts columns of its X, in the dtype that it is told."""

    def __init__(self, dtype: str = "float64", width: int = 1) -> None:
        self.dtype = dtype
        self.width = width

    def fit(self, X: Any, y: Any) -> Any:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        said = np.asarray(X)[:, : self.width].astype(self.dtype)
        return said[:, 0] if self.width == 1 else said

    def predict_proba(self, X: Any) -> Any:
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_), self.dtype)
