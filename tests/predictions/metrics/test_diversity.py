"""Pairwise diversity of classifiers, against its definitions."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from ensembles.predictions import diversity


def table(first: Any, second: Any, weight: Any) -> list[float]:
    """Weights of both right, only the first, only the second, neither."""
    shares = weight / weight.sum()
    pairs = product([True, False], repeat=2)
    return [shares[(first == a) & (second == b)].sum() for a, b in pairs]


@pytest.mark.filterwarnings("ignore::RuntimeWarning:sklearn")
@given(st.integers(0, 2**32 - 1))
def test_measures_equal_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, weight = rng.integers(0, 3, 30), rng.integers(1, 4, 30)
    labels = np.where(rng.random((4, 30)) < 0.5, y, rng.integers(0, 3, (4, 30)))
    found = diversity(labels, y, sample_weight=weight)
    for i, j in product(range(4), repeat=2):
        both, first, second, neither = table(labels[i] == y, labels[j] == y, weight)
        assert found.disagreement[i, j] == pytest.approx(first + second, abs=1e-12)
        assert found.double_fault[i, j] == pytest.approx(neither, abs=1e-12)
        expected = (both * neither - first * second) / (both * neither + first * second)
        assert found.q_statistic[i, j] == pytest.approx(expected)
        right = np.array([labels[i] == y, labels[j] == y], float)
        rho = np.cov(right, aweights=weight, bias=True)
        assert found.correlation[i, j] == pytest.approx(
            rho[0, 1] / np.sqrt(rho[0, 0] * rho[1, 1])
        )
        kappa = cohen_kappa_score(labels[i], labels[j], sample_weight=weight)
        assert found.kappa[i, j] == pytest.approx(kappa)
    differs = np.average(labels[0] != labels[1], weights=weight)
    assert found.label_disagreement[0, 1] == pytest.approx(differs)
    np.testing.assert_allclose(
        found.accuracy, np.average(labels == y, axis=1, weights=weight)
    )


def test_a_pair_of_kuncheva_and_whitaker() -> None:
    """Both right on 5 of 10 rows, one of them on 1 and 3, neither on 1."""
    y = np.zeros(10)
    first = [0] * 5 + [0] + [1] * 3 + [1]
    second = [0] * 5 + [1] + [0] * 3 + [1]
    found = diversity([first, second], y)
    assert found.disagreement[0, 1] == pytest.approx(0.4)
    assert found.double_fault[0, 1] == pytest.approx(0.1)
    assert found.q_statistic[0, 1] == pytest.approx((5 * 1 - 1 * 3) / (5 * 1 + 1 * 3))
    assert found.correlation[0, 1] == pytest.approx(2 / np.sqrt(6 * 4 * 8 * 2))
    assert found.means()["q_statistic"] == pytest.approx(0.25)


def test_a_member_that_is_always_right_has_no_correlation() -> None:
    found = diversity([[0, 1, 1], [0, 1, 0]], [0, 1, 1])
    assert np.isnan(found.correlation[0, 1])
    assert np.isnan(found.q_statistic[0, 1])
    assert np.isnan(found.means()["correlation"])
    assert found.means()["disagreement"] == pytest.approx(1 / 3)


def test_members_that_predict_one_label_have_no_kappa() -> None:
    weight = [0.1, 0.7, 0.3]
    found = diversity([[1, 1, 1], [1, 1, 1]], [0, 1, 1], sample_weight=weight)
    assert np.isnan(found.kappa).all()
    assert (found.label_disagreement >= 0).all()


def test_probabilities_have_the_labels_of_their_largest_column() -> None:
    proba = np.array([[[0.6, 0.4], [0.5, 0.5]], [[0.1, 0.9], [np.nan, 0.0]]])
    proba[1, 1] = [0.2, 0.8]
    by_proba = diversity(proba, ["no", "yes"])
    by_label = diversity([["no", "no"], ["yes", "yes"]], ["no", "yes"])
    assert by_proba.disagreement.tolist() == by_label.disagreement.tolist()


def test_rows_that_no_split_held_out_are_left_out() -> None:
    proba = np.array([[[0.6, 0.4], [np.nan] * 2], [[0.1, 0.9], [np.nan] * 2]])
    assert diversity(proba, [0, 1], classes=[0, 1]).disagreement[0, 1] == 1


@pytest.mark.parametrize(
    ("predictions", "y", "message"),
    [
        ([[0, 1]], [0], r"for 1 labels: found \(1, 2\)"),
        ([0, 1], [0, 1], r"found \(2,\)"),
        ([["0", "1"]], [0, 1], "must be labels of the type of y's"),
        ([[np.nan, 1.0]], [0.0, 1.0], "labels must not be NaN"),
        ([[[1, 0], [np.nan, 0]], [[1, 0], [0, 1]]], [0, 1], "member 0, row 1"),
        ([[[1, 0, 0], [0, 1, 0]]], [0, 1], "one column for each label"),
    ],
)
def test_wrong_input_is_refused(predictions: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diversity(predictions, y)


@pytest.mark.parametrize("weight", [[-1, -1], [0, 0], [1, np.nan], [1]])
def test_wrong_sample_weights_are_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match="sample_weight"):
        diversity([[0, 1], [1, 1]], [0, 1], sample_weight=weight)
