"""Diversity of pairs of members."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.predictions import diversity
from ensembles.reports import DiversityDisplay
from ensembles.reports.displays.predictions.diversity import MEASURES


def texts(display: DiversityDisplay) -> list[str]:
    return [text.get_text() for text in display.ax_.texts]


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_are_those_of_the_function(
    measure: str, rng: np.random.Generator
) -> None:
    y = rng.integers(0, 3, 80)
    stack = rng.dirichlet(np.ones(3), (4, 80))
    weight = rng.uniform(size=80)
    display = DiversityDisplay.from_predictions(
        y, stack, measure=measure, sample_weight=weight
    )
    expected = diversity(stack, y, sample_weight=weight)
    np.testing.assert_array_equal(display.values, getattr(expected, measure))
    np.testing.assert_array_equal(display.to_dict()["accuracy"], expected.accuracy)
    assert display.ax_.get_xlabel() == "diagonal: accuracy"
    assert len(texts(display)) == 16


def test_the_pair_with_the_least_and_the_greatest_value_is_named() -> None:
    y = [0, 0, 0, 0, 0, 1]
    labels = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1]])
    display = DiversityDisplay.from_predictions(
        y, np.eye(2)[labels], names=["a", "b", "c"]
    )
    assert display.summary == (
        "share of rows where one of two is right of 3 members: "
        "from 0.167 (a, b) to 0.833 (b, c), mean 0.556"
    )


def test_values_of_a_regression_have_the_correlation_of_errors(
    rng: np.random.Generator,
) -> None:
    y, errors = rng.normal(size=50), rng.normal(size=(3, 50))
    errors[1] += errors[0]
    display = DiversityDisplay.from_predictions(y, y + errors)
    np.testing.assert_allclose(display.values, np.corrcoef(errors))
    assert display.measure == "correlation of errors"
    weight = np.repeat([0.0, 1.0], 25)
    weighted = DiversityDisplay.from_predictions(y, y + errors, sample_weight=weight)
    np.testing.assert_allclose(weighted.values, np.corrcoef(errors[:, 25:]))
    with pytest.raises(ValueError, match="must be None for a regression"):
        DiversityDisplay.from_predictions(y, y + errors, measure="kappa")


def test_members_that_are_always_right_have_no_correlation() -> None:
    y = [0, 1, 0, 1]
    display = DiversityDisplay.from_predictions(
        y, np.eye(2)[[y, y]], measure="correlation"
    )
    assert display.summary.endswith("of 2 members: undefined for all pairs")
    assert sorted(texts(display)) == ["1.00", "1.00", "none", "none"]


@pytest.mark.parametrize(
    ("values", "params", "message"),
    [
        (np.eye(3), {"names": ["a", "b"]}, r"each of 2 names, found shape \(3, 3\)"),
        ([[1.0]], {"names": ["a"]}, "at least two members, found 1"),
        (np.eye(2), {"names": ["a", "b"], "accuracy": [1]}, "each of 2 names, found"),
    ],
)
def test_shapes_that_do_not_match_are_errors(
    values: Any, params: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DiversityDisplay(values, **params)


def test_unknown_measures_are_errors() -> None:
    with pytest.raises(ValueError, match="measure must be"):
        DiversityDisplay.from_predictions([0, 1], np.eye(2)[[[0, 1]] * 2], measure="q")
