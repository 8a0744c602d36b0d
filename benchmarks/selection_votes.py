"""How much time do votes take, without the members, compared with VotingClassifier?

Members predict columns of X, so that only combining takes time. The predictions of both
are compared before anything is measured.
"""  # noqa: D400  # a question

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import measuring
import numpy as np
from report import seconds
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import VotingClassifier

from ensembles.predictions import EnsembleClassifier

CLASSES = np.arange(10)


class Column(ClassifierMixin, BaseEstimator):
    """Predicts the label in a column of X, with a probability of its own.

    Parameters
    ----------
    place : int
        Of the column.
    """

    def __init__(self, place: int = 0) -> None:
        self.place = place

    def fit(self, X: Any, y: Any) -> Column:
        """Learn the labels only."""
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        """The column."""
        return X[:, self.place]

    def predict_proba(self, X: Any) -> Any:
        """Probability of the column's label; the other labels share the rest."""
        sure = 0.5 + 0.4 / (1 + self.place)
        shares = np.full((len(X), len(CLASSES)), (1 - sure) / (len(CLASSES) - 1))
        shares[np.arange(len(X)), X[:, self.place]] = sure
        return shares


def measure(n_rows: int, repeats: int) -> list[dict[str, Any]]:
    """Hard votes of five members and soft votes of fifty."""
    X = np.random.default_rng(0).choice(CLASSES, size=(50, n_rows)).T
    return [one(X, "hard", 5, repeats), one(X, "soft", 50, repeats)]


def one(X: Any, voting: str, n_members: int, repeats: int) -> dict[str, Any]:
    """CPU seconds and peak bytes of one prediction, here and in scikit-learn."""
    members = [(str(place), Column(place)) for place in range(n_members)]
    rule = {"hard": "vote", "soft": "mean"}[voting]
    both = (
        EnsembleClassifier(members, rule=rule, weights=None),
        VotingClassifier(members, voting=voting),
    )
    asks = [asker(model.fit(X[:100], X[:100, 0]), voting) for model in both]
    answers = [ask(X) for ask in asks]
    np.testing.assert_allclose(*answers, rtol=1e-12)
    return {
        "voting": voting,
        "shape": [n_members, len(X), len(CLASSES)],
        "cpu": [spent(ask, X, repeats) for ask in asks],
        "bytes": [most(ask, X) - answers[0].nbytes for ask in asks],
    }


def asker(model: Any, voting: str) -> Callable[[Any], Any]:
    """Method that predicts: labels of a hard vote, probabilities of a soft one."""
    found: Callable[[Any], Any] = (
        model.predict if voting == "hard" else model.predict_proba
    )
    return found


def spent(ask: Callable[[Any], Any], X: Any, repeats: int) -> dict[str, float]:
    """CPU seconds of a call, threads included."""
    costs = []
    for _ in range(repeats):
        started = time.process_time()
        ask(X)
        costs.append(time.process_time() - started)
    return measuring.spread(costs)


def most(ask: Callable[[Any], Any], X: Any) -> int:
    """Peak bytes of all arrays in a call."""
    tracemalloc.start()
    try:
        ask(X)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def markdown(found: list[Mapping[str, Any]]) -> list[str]:
    """Table as lines of Markdown."""
    lines = [
        "",
        "Votes of members whose prediction costs nothing, verified to be the same. "
        "Memory is the peak of all arrays, without the result.",
        "",
        "| vote | members x rows x classes | ours s | VotingClassifier s "
        "| VotingClassifier / ours | ours MB | VotingClassifier MB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        ours, theirs = row["cpu"]
        cells = [
            row["voting"],
            " x ".join(f"{size:,}" for size in row["shape"]),
            seconds(ours),
            seconds(theirs),
            f"{theirs['median'] / ours['median']:.0f}",
            *(f"{n_bytes / 1e6:.1f}" for n_bytes in row["bytes"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
