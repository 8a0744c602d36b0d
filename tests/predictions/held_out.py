"""Held-out predictions at random, with ties and odd values, to score weights by."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ensembles._typing import Float64
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    RegressionOutputs,
)
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.metrics.table import make_score

MEAN = resolve_combiner("mean")

# What probabilities are made of: whole parts tie all the time, the odd ones never fit.
kinds = st.sampled_from(["halves", "quarters", "tenths", "odd", "plain", "float32"])


@st.composite
def shapes(draw: Any, least_classes: int = 2, most_classes: int = 4) -> Any:
    """Seed, members, rows, classes, kind of numbers, kind of weights."""
    return (
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(1, 7)),
        draw(st.integers(1, 12) | st.integers(40, 300)),
        draw(st.integers(least_classes, most_classes)),
        draw(kinds),
        draw(st.sampled_from(["none", "whole", "any", "zeros"])),
    )


def classes_held(
    seed: int, n_members: int, n_rows: int, n_classes: int, kind: str, weighting: str
) -> OutOfFold:
    """Probabilities of classes, every class in y where there is room."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n_rows) % n_classes)
    stack = _probabilities(rng, (n_members, n_rows, n_classes), kind)
    if n_members > 2:
        stack[-1] = stack[0]  # a member twice
    names: Any = np.arange(2)  # scikit-learn's Brier score of two takes no others
    if n_classes > 2:
        names = np.array([f"class {k}" for k in range(n_classes)])
    labels = ClassOutputs([names], False, False, False, "error")
    return OutOfFold([stack], names[y], labels, _weights(rng, n_rows, weighting))


def _probabilities(rng: Any, shape: tuple[int, ...], kind: str) -> Float64:
    if kind in ("halves", "quarters", "tenths"):
        parts = {"halves": 2, "quarters": 4, "tenths": 10}[kind]
        cells = np.ones(shape[-1]) / shape[-1]
        return np.asarray(rng.multinomial(parts, cells, shape[:-1]) / parts)
    stack = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    if kind == "odd":
        rest = rng.choice([0.0, 5e-324, 1e-310, 1e-17, 1e-8, 1.0], shape[:-1])
        first = rng.integers(shape[-1], size=shape[:-1])
        stack[:] = 0.0
        at = (*np.indices(shape[:-1]), first)
        stack[at] = rest
        stack[(*np.indices(shape[:-1]), (first + 1) % shape[-1])] = 1.0 - rest
    return np.asarray(stack, np.float32 if kind == "float32" else np.float64)


def values_held(
    seed: int, n_members: int, n_rows: int, width: int, kind: str, weighting: str
) -> OutOfFold:
    """Values of targets."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n_rows, width))
    stack = y + rng.normal(size=(n_members, n_rows, width))
    if kind != "plain":
        y, stack = np.round(y), np.round(stack)
    if kind == "odd":
        stack, y = stack * 1e6 + 1e7, y * 1e6 + 1e7
    if kind == "float32":
        stack = stack.astype(np.float32)
    if n_members > 2:
        stack[-1] = stack[0]
    y = y[:, 0] if width == 1 else y
    outputs = RegressionOutputs(width > 1, width)
    return OutOfFold([stack], y, outputs, _weights(rng, n_rows, weighting))


def _weights(rng: Any, n_rows: int, weighting: str) -> Float64 | None:
    if weighting == "none":
        return None
    if weighting == "any":
        return np.asarray(rng.random(n_rows) + 0.01)
    weights = rng.integers(0 if weighting == "zeros" else 1, 4, n_rows).astype(float)
    weights[0] = 1.0
    return np.asarray(weights)


def mean_of(held: OutOfFold) -> FittedCombiner:
    """The mean, as an estimator combines these predictions."""
    return FittedCombiner(MEAN, {}, held.outputs)


def both(held: OutOfFold, scoring: Any) -> tuple[Any, ScorerScore]:
    """The score that is offered, and the plain one."""
    combiner = mean_of(held)
    return make_score(held, combiner, scoring), ScorerScore(held, combiner, scoring)
