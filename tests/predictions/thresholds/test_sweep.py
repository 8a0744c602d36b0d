"""The sweep of thresholds, against every division of the rows and scikit-learn."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
)

from ensembles.predictions.thresholds.learning import METRICS
from ensembles.predictions.thresholds.sweep import LabelScore, best_factors

SCORES: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "f1": f1_score,
    "f1_macro": lambda *labels, **params: f1_score(*labels, average="macro", **params),
    "matthews_corrcoef": matthews_corrcoef,
}


def scikit_learn(name: str, y: Any, codes: Any, weight: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are not predicted
        return float(SCORES[name](y, codes, sample_weight=weight))


def problem(seed: int, n_rows: int, n_classes: int) -> tuple[Any, Any, Any]:
    """Probabilities in quarters, so that they tie and are often 0; labels; weights."""
    rng = np.random.default_rng(seed)
    cells = np.ones(n_classes) / n_classes
    y_proba = rng.multinomial(4, cells, n_rows) / 4
    weight = rng.integers(1, 4, n_rows).astype(float)
    return y_proba, rng.integers(n_classes, size=n_rows), weight


def score_of(name: str, y: Any, weight: Any, n_classes: int) -> LabelScore:
    return LabelScore(METRICS[name], np.eye(n_classes)[y] * weight[:, None], weight)


@pytest.mark.parametrize("name", SCORES)
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(1, 12))
def test_no_threshold_of_two_classes_scores_better(
    name: str, seed: int, n_rows: int
) -> None:
    y_proba, y, weight = problem(seed, n_rows, 2)
    score = score_of(name, y, weight, 2)
    factors, value = best_factors(y_proba, score)
    reached = scikit_learn(name, y, (y_proba * factors).argmax(axis=1), weight)
    assert value == pytest.approx(reached, abs=1e-12)
    # Between, below and above the ratios 1/3, 1 and 3 of quarters; ties at 1.
    for factor in (0.1, 0.5, 1.0, 2.0, 10.0):
        changed = np.array([1, factor])
        assert value >= score.at_factors(y_proba, changed) - 1e-12


@pytest.mark.parametrize("name", [name for name in SCORES if name != "f1"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(1, 9))
def test_no_change_of_one_threshold_of_several_classes_scores_better(
    name: str, seed: int, n_rows: int
) -> None:
    y_proba, y, weight = problem(seed, n_rows, 3)
    score = score_of(name, y, weight, 3)
    factors, value = best_factors(y_proba, score)
    reached = scikit_learn(name, y, (y_proba * factors).argmax(axis=1), weight)
    assert value == pytest.approx(reached, abs=1e-12)
    assert value >= score.at_factors(y_proba, np.ones(3)) - 1e-12
    for k, factor in itertools.product(range(3), np.geomspace(0.01, 100, 15)):
        changed = np.where(np.arange(3) == k, factors * factor, factors)
        assert value >= score.at_factors(y_proba, changed) - 1e-12


def test_thresholds_that_change_nothing_stay_as_they_are() -> None:
    y_proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    score = score_of("f1", np.array([0, 1, 1]), np.ones(3), 2)
    factors, value = best_factors(y_proba, score)
    assert (factors.tolist(), value) == ([1.0, 1.0], 1.0)


def test_of_equally_good_intervals_the_nearest_is_chosen() -> None:
    # Three rows are right for factors from 1/9 to 1/4, and for those above 9.
    second = np.array([0.9, 0.8, 0.7, 0.3, 0.1])
    y_proba = np.column_stack([1 - second, second])
    score = score_of("accuracy", np.array([1, 0, 0, 1, 1]), np.ones(5), 2)
    factors, value = best_factors(y_proba, score)
    assert value == 0.6
    assert (y_proba * factors).argmax(axis=1).tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("name", SCORES)
def test_one_true_class_and_certain_rows_have_a_score(name: str) -> None:
    y_proba = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for y in ([0, 0, 0], [1, 1, 1]):
        score = score_of(name, np.array(y), np.ones(3), 2)
        factors, value = best_factors(y_proba, score)
        assert factors.tolist() == [1.0, 1.0]  # nothing can change certain rows
        expected = scikit_learn(name, y, [0, 1, 0], np.ones(3))
        assert value == pytest.approx(expected)
