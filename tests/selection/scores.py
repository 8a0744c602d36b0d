"""Scores whose best weights are known, and members at random to try them on."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ensembles._typing import Counts, Float64
from ensembles.selection.score import Score

cases = st.tuples(st.integers(1, 6), st.integers(0, 2**32 - 1))  # n_members, seed


class Distance:
    """Minus the squared distance of the mean of the members from a target."""

    def __init__(self, stack: Float64, target: Float64) -> None:
        self.stack, self.target = stack, target

    def __call__(self, weights: Float64) -> float:
        return -float(np.sum((weights @ self.stack - self.target) ** 2))


class DistanceWithGradient(Distance):
    def gradient(self, weights: Float64) -> Float64:
        gradient = -2 * self.stack @ (weights @ self.stack - self.target)
        return np.asarray(gradient)


class Gaining:
    """A score that offers gains, and counts how often it is asked."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.n_gains = 0

    def __call__(self, weights: Float64) -> float:
        return self.score(weights)

    def gains(self, counts: Counts, members: Counts) -> Float64:
        self.n_gains += 1
        more = counts + np.eye(len(counts), dtype=np.int64)[members]
        return np.array([self.score(row / row.sum()) for row in more])


class Table:
    """Scores written down by hand; weights that are not in the table fail."""

    def __init__(self, scores: dict[tuple[float, ...], float]) -> None:
        self.scores = scores
        self.asked: list[tuple[float, ...]] = []

    def __call__(self, weights: Float64) -> float:
        self.asked.append(tuple(weights.tolist()))
        return self.scores[self.asked[-1]]


def distances(n_members: int, seed: int) -> DistanceWithGradient:
    rng = np.random.default_rng(seed)
    return DistanceWithGradient(rng.normal(size=(n_members, 3)), rng.normal(size=3))


def log_loss_of(stack: Float64) -> Any:
    """Minus the log-loss, by the members' probabilities of what is true."""

    class LogLoss:
        def __call__(self, weights: Float64) -> float:
            return float(np.log(weights @ stack).mean())

        def gradient(self, weights: Float64) -> Float64:
            return np.asarray((stack / (weights @ stack)).mean(axis=1))

    return LogLoss()
