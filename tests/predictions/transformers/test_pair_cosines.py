"""Cosines from inner products, beside those of the combined vectors themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.stats import pearsonr, rankdata, spearmanr

from ensembles.predictions.transformers.pair_cosines import (
    PairScore,
    SmoothPairScore,
    pair_products,
)
from ensembles.selection import SELECTIONS

N_PAIRS = 40


def combined(outputs: Any, weights: Any, concatenated: bool) -> Any:
    parts = [w * np.float64(output) for w, output in zip(weights, outputs, strict=True)]
    return np.hstack(parts) if concatenated else sum(parts)


def cosines_of(vectors: Any, first: Any, second: Any) -> Any:
    a, b = vectors[first], vectors[second]
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1)
    return np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), 0)


def case(seed: int, n_members: int, concatenated: bool) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 6, n_members) if concatenated else [4] * n_members
    outputs = [rng.normal(size=(30, width)).astype(np.float32) for width in widths]
    for output in outputs:
        output[0] = 0  # a text without a known word
    first, second = rng.integers(30, size=(2, N_PAIRS))
    first[0] = 0
    ratings = rng.integers(6, size=N_PAIRS).astype(float)
    return outputs, first, second, ratings


each = pytest.mark.parametrize("concatenated", [True, False])


@each
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n_members=st.integers(1, 4))
def test_scores_are_those_of_the_vectors(
    concatenated: bool, seed: int, n_members: int
) -> None:
    outputs, first, second, ratings = case(seed, n_members, concatenated)
    products = pair_products(outputs, first, second, concatenated=concatenated)
    assert products.n_members == n_members
    weights = np.random.default_rng(seed).dirichlet(np.ones(n_members))
    expected = cosines_of(combined(outputs, weights, concatenated), first, second)
    found = products.cosines(products.terms(weights))
    assert found == pytest.approx(expected, abs=1e-6)  # products of float32 vectors
    assert found[0] == 0
    score = PairScore(products, ratings)
    assert score(weights) == pytest.approx(spearmanr(found, ratings)[0], abs=1e-12)
    rows = np.arange(0, N_PAIRS, 2)
    part = products.subset(rows)
    assert part.cosines(part.terms(weights)) == pytest.approx(found[rows], abs=1e-14)


@each
def test_equal_texts_have_a_cosine_of_one_exactly(concatenated: bool) -> None:
    outputs, _, _, _ = case(3, 3, concatenated)
    rows = np.arange(1, 30)
    products = pair_products(outputs, rows, rows, concatenated=concatenated)
    found = products.cosines(products.terms(np.array([0.2, 0.3, 0.5])))
    assert (found == 1).all()


@each
def test_products_are_in_double_precision(concatenated: bool) -> None:
    vectors: Any = np.array([[1, 1e-4, 0], [1, 0, 1e-4]], np.float32)
    first, second = np.array([0]), np.array([1])
    products = pair_products([vectors], first, second, concatenated=concatenated)
    assert products.first[0, 0] == np.float64(np.float32(1e-4)) ** 2 + 1


@each
def test_the_gradient_is_that_of_finite_differences(concatenated: bool) -> None:
    outputs, first, second, ratings = case(5, 3, concatenated)
    products = pair_products(outputs, first, second, concatenated=concatenated)
    smooth = SmoothPairScore(products, ratings)
    weights = np.array([0.5, 0.3, 0.2])
    terms = weights if concatenated else products.terms(weights)
    expected = pearsonr(products.cosines(terms), rankdata(ratings))[0]
    assert smooth(weights) == pytest.approx(expected)
    assert check_grad(smooth, smooth.gradient, weights) < 1e-6
    assert np.abs(smooth.gradient(weights)).max() > 1e-3


@each
def test_constant_cosines_have_no_gradient(concatenated: bool) -> None:
    outputs = [np.ones((4, 2)), np.ones((4, 2))]
    rows = np.arange(4)
    products = pair_products(outputs, rows, rows, concatenated=concatenated)
    smooth = SmoothPairScore(products, np.arange(4.0))
    weights = np.array([0.5, 0.5])
    assert smooth(weights) == 0
    assert smooth.gradient(weights).tolist() == [0, 0]


@each
def test_the_optimum_is_that_of_a_grid(concatenated: bool) -> None:
    rng = np.random.default_rng(0)
    first, second = np.arange(200), np.arange(200, 400)
    signal, ratings = [], rng.normal(size=200)
    for noise in (0.5, 1.0):  # the second member is noisier
        angle = np.append(np.zeros(200), np.pi / 4 - ratings / 4)
        vectors = np.column_stack([np.cos(angle), np.sin(angle)])
        signal.append(vectors + noise * rng.normal(size=(400, 2)))
    products = pair_products(signal, first, second, concatenated=concatenated)
    score = PairScore(products, ratings)

    def pearson(share: float) -> float:
        cosines = products.cosines(products.terms(np.array([1 - share, share])))
        return float(pearsonr(cosines, rankdata(ratings))[0])

    grid = np.linspace(0, 1, 1001)
    values = [pearson(share) for share in grid]
    best = grid[int(np.argmax(values))]
    assert 0.02 < best < 0.98
    optimum = score.optimum()
    assert optimum.sum() == pytest.approx(1)
    assert optimum[1] == pytest.approx(best, abs=2e-3)
    chosen = SELECTIONS["convex"](2, score)
    assert score(chosen) >= score(optimum)
