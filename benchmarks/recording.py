"""Recorded predictions of members in each fold, and members that replay them.

A recorded member's ``X`` holds numbers of rows. Fitted on all training rows it answers
as the member fitted on them does; fitted on all folds but one, it answers that fold as
the member fitted on the others does, and nothing else. So whatever is built of such
members, ours or not, is what it would be of the members themselves.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import check_cv
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits


def members(classes: bool) -> list[tuple[str, Any]]:
    """Five members that err differently, as scikit-learn sets them."""
    if classes:
        return [
            ("LR", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
            ("RF", RandomForestClassifier(random_state=0)),
            ("ET", ExtraTreesClassifier(random_state=0)),
            ("HGB", HistGradientBoostingClassifier(random_state=0)),
            ("GNB", GaussianNB()),
        ]
    return [
        ("Ridge", make_pipeline(StandardScaler(), Ridge())),
        ("RF", RandomForestRegressor(random_state=0)),
        ("ET", ExtraTreesRegressor(random_state=0)),
        ("HGB", HistGradientBoostingRegressor(random_state=0)),
        ("KNN", make_pipeline(StandardScaler(), KNeighborsRegressor())),
    ]


class Recording(NamedTuple):
    """Predictions of the members on one split of the data.

    Parameters
    ----------
    names : list of str
    y : ndarray of shape (n_rows,)
        Training rows, then test rows.
    fold : ndarray of shape (n_train,)
        The fold in which a training row is held out.
    held : ndarray of shape (n_members, n_train, n_columns)
        Answers of members that were not fitted on the row's fold.
    full : ndarray of shape (n_members, n_rows, n_columns)
        Answers of members fitted on all training rows: those are leaks there.
    cpu : ndarray of shape (n_members,)
        Seconds of the processor that a member's six fits and answers took.
    """

    names: list[str]
    y: Any
    fold: Any
    held: Any
    full: Any
    cpu: Any

    def __deepcopy__(self, memo: Any) -> Recording:
        """Return itself: records are never changed, so clones share them."""
        return self

    @property
    def n_train(self) -> int:
        """Rows to fit on."""
        return len(self.fold)

    @property
    def train(self) -> Any:
        """Numbers of the training rows, as a column."""
        return np.arange(self.n_train)[:, None]

    @property
    def test(self) -> Any:
        """Numbers of the test rows, as a column."""
        return np.arange(self.n_train, len(self.y))[:, None]

    @property
    def y_train(self) -> Any:
        """Targets to fit on."""
        return self.y[: self.n_train]

    @property
    def y_test(self) -> Any:
        """Targets to be predicted."""
        return self.y[self.n_train :]

    def members(self, *, classes: bool) -> list[tuple[str, Any]]:
        """Members that replay this record."""
        kind = RecordedClassifier if classes else RecordedRegressor
        return [(name, kind(self, place)) for place, name in enumerate(self.names)]


def record(
    X: Any,
    y: Any,
    split: tuple[Any, Any],
    *,
    classes: bool,
    pairs: list[tuple[str, Any]] | None = None,
) -> Recording:
    """Fit and ask every member: on each fold's rest, and on all training rows.

    None for ``pairs`` are `members`.
    """
    train, test = split
    rows = np.concatenate([train, test])
    X, y, n_train = X[rows], y[rows], len(train)
    fold = np.empty(n_train, np.int64)
    splits = list(
        check_cv(5, y[:n_train], classifier=classes).split(X[:n_train], y[:n_train])
    )
    for place, (_, out) in enumerate(splits):
        fold[out] = place
    pairs = members(classes) if pairs is None else pairs
    held, full, cpu = [], [], []
    for _, member in pairs:
        with threadpool_limits(1):
            started = time.process_time()
            own = [(clone(member).fit(X[a], y[a]), b) for a, b in splits]
            said = [(_say(one, X[b]), b) for one, b in own]
            full.append(_say(clone(member).fit(X[:n_train], y[:n_train]), X))
            cpu.append(time.process_time() - started)
        held.append(np.empty((n_train, said[0][0].shape[1])))
        for answer, out in said:
            held[-1][out] = answer
    names = [name for name, _ in pairs]
    return Recording(names, y, fold, np.array(held), np.array(full), np.array(cpu))


def _say(member: Any, X: Any) -> Any:
    if hasattr(member, "predict_proba"):
        return member.predict_proba(X)
    return member.predict(X)[:, None]


class Recorded(BaseEstimator):
    """A member that replays a record.

    Parameters
    ----------
    recording : Recording
    place : int
        Which member it is.
    """

    def __init__(self, recording: Recording, place: int) -> None:
        self.recording = recording
        self.place = place

    def fit(self, X: Any, y: Any) -> Recorded:
        """Determine which rows are fitted."""
        fold, rows = self.recording.fold, np.asarray(X)[:, 0]
        held = np.setdiff1d(np.arange(len(fold)), rows)
        self.held_ = None if len(held) == 0 else int(fold[held[0]])
        if len(held) and not np.array_equal(held, np.flatnonzero(fold == self.held_)):
            raise ValueError(
                "a recorded member is fitted on all rows, or all folds but one"
            )
        if isinstance(self, ClassifierMixin):
            self.classes_ = np.unique(y)
        return self

    def _answer(self, X: Any) -> Any:
        rows = np.asarray(X)[:, 0]
        if self.held_ is None:
            return self.recording.full[self.place][rows]
        if (self.recording.fold[rows] != self.held_).any():
            raise ValueError("a recorded member must predict the rows of its fold")
        return self.recording.held[self.place][rows]


class RecordedClassifier(ClassifierMixin, Recorded):
    """A classifier that replays a record."""

    def predict_proba(self, X: Any) -> Any:
        """Probabilities as they were recorded."""
        return self._answer(X)

    def predict(self, X: Any) -> Any:
        """The most probable class."""
        return self.classes_[self._answer(X).argmax(axis=1)]


class RecordedRegressor(RegressorMixin, Recorded):
    """A regressor that replays a record."""

    def predict(self, X: Any) -> Any:
        """Values as they were recorded."""
        return self._answer(X)[:, 0]
