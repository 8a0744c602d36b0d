"""Scores against the number of members."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from ensembles._typing import Counts, Float64
from ensembles.reports import EnsembleSizeDisplay


def noisy_members(rng: np.random.Generator, n_members: int) -> tuple[Counts, Float64]:
    y = np.arange(80) % 2
    logits = 2 * y - 1 + rng.normal(0, 2, (n_members, 80))
    share = 1 / (1 + np.exp(-logits))
    return y, np.stack([1 - share, share], axis=2)


def test_scores_are_those_of_the_mean_of_some_members(
    rng: np.random.Generator,
) -> None:
    y, stack = noisy_members(rng, 4)
    display = EnsembleSizeDisplay.from_predictions(y, stack, n_orders=40)
    assert display.sizes.tolist() == [1, 2, 3, 4]
    for column, size in enumerate(display.sizes):
        possible = [
            log_loss(y, stack[list(subset)].mean(axis=0))
            for subset in combinations(range(4), int(size))
        ]
        nearest = np.abs(display.random[:, column, None] - possible).min(axis=1)
        assert nearest.max() < 1e-12
    best = [log_loss(y, y_proba) for y_proba in stack]
    order = np.argsort(best)
    expected = [log_loss(y, stack[order[:k]].mean(axis=0)) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(display.to_dict()["best_first"], expected)
    # More members of the same quality lower the loss.
    assert (np.diff(display.random.mean(axis=0)) < 0).all()


def test_weights_rules_and_scorers_are_those_that_are_passed(
    rng: np.random.Generator,
) -> None:
    y, stack = noisy_members(rng, 3)
    weight = rng.uniform(0, 1, 80)
    display = EnsembleSizeDisplay.from_predictions(
        y,
        stack,
        rule="median",
        scoring="neg_brier_score",
        combined=stack[0],
        sample_weight=weight,
        n_orders=1,
    )
    median = np.median(stack, axis=0)
    median /= median.sum(axis=1, keepdims=True)
    expected = brier_score_loss(y, median[:, 1], sample_weight=weight)
    assert display.random[0, -1] == pytest.approx(expected)
    alone = brier_score_loss(y, stack[0, :, 1], sample_weight=weight)
    assert display.score == pytest.approx(alone)
    assert display.metric == "brier score"


def test_a_product_of_some_members_has_the_weight_1_for_each(
    rng: np.random.Generator,
) -> None:
    y, stack = noisy_members(rng, 2)
    display = EnsembleSizeDisplay.from_predictions(y, stack, rule="product")
    product = stack.prod(axis=0)
    product /= product.sum(axis=1, keepdims=True)
    assert display.random[0, 1] == pytest.approx(log_loss(y, product))


def test_of_many_members_some_numbers_are_scored(rng: np.random.Generator) -> None:
    y, stack = noisy_members(rng, 300)
    display = EnsembleSizeDisplay.from_predictions(y, stack, n_orders=1)
    assert len(display.sizes) <= 20
    assert display.sizes[[0, -1]].tolist() == [1, 300]


def test_one_member_has_one_score() -> None:
    display = EnsembleSizeDisplay.from_predictions([0.0, 1.0], [[0.5, 0.5]])
    assert display.summary == "mean mean squared error 0.25 with 1 member"


def test_scores_that_cannot_be_drawn_are_errors() -> None:
    with pytest.raises(ValueError, match="each of 2 sizes, found shape"):
        EnsembleSizeDisplay([1, 2], [[1.0]])
    with pytest.raises(ValueError, match="best_first must have a score"):
        EnsembleSizeDisplay([1], [[1.0]], best_first=[1, 2])
    with pytest.raises(ValueError, match="finite, found NaN"):
        EnsembleSizeDisplay([1], [[np.nan]])
    with pytest.raises(ValueError, match="n_orders must be at least 1"):
        EnsembleSizeDisplay.from_predictions([0, 1], np.ones((1, 2)), n_orders=0)
