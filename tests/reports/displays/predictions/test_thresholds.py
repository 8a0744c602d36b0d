"""Scores of labels against the threshold of a class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
)

from ensembles._typing import Float64
from ensembles.reports import ThresholdDisplay


def imbalanced(rng: np.random.Generator, n_rows: int = 90) -> tuple[Any, Float64]:
    y = (rng.uniform(size=n_rows) < 0.15).astype(int)
    return y, 1 / (1 + np.exp(-(rng.normal(size=n_rows) + 2 * y - 2)))


def test_a_row_is_positive_if_its_probability_is_above_the_threshold(
    rng: np.random.Generator,
) -> None:
    y, share = imbalanced(rng)
    display = ThresholdDisplay.from_predictions(y, share)
    assert list(display.scores) == ["balanced accuracy", "macro F1", "MCC"]
    for threshold, *scores in zip(
        display.thresholds, *display.scores.values(), strict=True
    ):
        labels = (share > threshold).astype(int)
        assert scores == pytest.approx(
            [
                balanced_accuracy_score(y, labels),
                f1_score(y, labels, average="macro"),
                matthews_corrcoef(y, labels),
            ]
        )
    threshold, best = display.best["balanced accuracy"]
    every = [balanced_accuracy_score(y, share > cut) for cut in [-1, *share]]
    assert best == pytest.approx(max(every))
    assert threshold < 0.5


def test_with_several_classes_the_other_thresholds_keep_their_ratio(
    rng: np.random.Generator,
) -> None:
    y_proba = rng.dirichlet([1, 1, 1], 50)
    y = np.array(["a", "b", "c"])[rng.integers(0, 3, 50)]
    given = np.array([0.2, 0.5, 0.3])
    display = ThresholdDisplay.from_predictions(
        y, y_proba, thresholds=2 * given, pos_label="b", scoring=["balanced_accuracy"]
    )
    assert display.chosen == pytest.approx(0.5)
    for threshold, score in zip(
        display.thresholds[1:-1], display.scores["balanced accuracy"][1:-1], strict=True
    ):
        rest = 1 - threshold
        thresholds = np.array([rest * 0.2 / 0.5, threshold, rest * 0.3 / 0.5])
        labels = np.array(["a", "b", "c"])[(y_proba / thresholds).argmax(axis=1)]
        assert score == pytest.approx(balanced_accuracy_score(y, labels))


def test_at_most_100_thresholds_are_scored(rng: np.random.Generator) -> None:
    y, share = imbalanced(rng, 3000)
    display = ThresholdDisplay.from_predictions(y, share, scoring=["accuracy"])
    assert 50 < len(display.thresholds) <= 100
    assert display.thresholds[[0, -1]].tolist() == [0, 1]


def test_labels_that_are_never_true_are_no_warning() -> None:
    y_proba = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.1, 0.5, 0.4]])
    display = ThresholdDisplay.from_predictions(
        ["a", "c", "c"], y_proba, classes=["a", "b", "c"], pos_label="b"
    )
    assert np.isfinite(display.scores["balanced accuracy"]).all()


def test_sample_weights_count(rng: np.random.Generator) -> None:
    y, share = imbalanced(rng)
    weight = rng.uniform(size=len(y))
    display = ThresholdDisplay.from_predictions(
        y, share, sample_weight=weight, scoring=["accuracy"]
    )
    expected = np.average(y == 0, weights=weight)  # with the threshold 1
    assert display.scores["accuracy"][-1] == pytest.approx(expected)


def test_equal_and_certain_probabilities_have_a_defined_margin() -> None:
    y_proba = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    display = ThresholdDisplay.from_predictions(
        [0, 0, 1, 1], y_proba, scoring=["accuracy"]
    )
    assert display.thresholds.tolist() == [0, 0.25, 0.75, 1]
    assert display.scores["accuracy"].tolist() == [1, 1, 0.75, 0.5]
    assert display.default == 0.5


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pos_label": 7}, r"one of \[0, 1\], found 7"),
        ({"thresholds": [1, 0]}, "positive number for each"),
        ({"thresholds": [1]}, r"classes \[0, 1\], found \[1\]"),
        ({"scoring": []}, "at least one metric"),
    ],
)
def test_invalid_parameters_are_errors(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThresholdDisplay.from_predictions([0, 1], [0.2, 0.7], **params)


def test_scores_that_cannot_be_drawn_are_errors() -> None:
    with pytest.raises(ValueError, match="no score is finite"):
        ThresholdDisplay([0.5], {"f1": [np.nan]}, label="yes")
    with pytest.raises(ValueError, match=r"each of 1 thresholds: found shapes"):
        ThresholdDisplay([0.5], {"f1": [1, 2]}, label="yes")
