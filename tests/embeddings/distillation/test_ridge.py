"""Ridge regression and refinement, against dense float64 algebra."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.embeddings.distillation.loops import add_squares, descend_cosines
from ensembles.embeddings.distillation.refinement import refine
from ensembles.embeddings.distillation.ridge import fit_ridge, sorted_tokens
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows


def ragged(texts: list[list[int]]) -> RaggedRows:
    rows = np.array([row for text in texts for row in text], np.int32)
    return RaggedRows(rows, np.cumsum([0, *map(len, texts)]).astype(np.int64))


def mean_counts(texts: RaggedRows, n_tokens: int, power: float = 1) -> Any:
    matrix = np.zeros((len(texts.offsets) - 1, n_tokens))
    for row, (start, stop) in zip(matrix, pairwise(texts.offsets), strict=True):
        np.add.at(row, texts.rows[start:stop], 1 / max(stop - start, 1) ** power)
    return matrix


def exact(
    texts: RaggedRows, targets: Any, prior: Any, penalties: Any, weights: Any
) -> Any:
    """Normal equations in float64."""
    counts = mean_counts(texts, len(prior), 0.5)
    left = counts.T @ (weights[:, None] * counts) + np.diag(penalties)
    right = counts.T @ (weights[:, None] * targets) + penalties[:, None] * prior
    return np.linalg.solve(left, right)


words = st.lists(st.integers(0, 6), max_size=8)


@given(st.lists(words, min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_the_table_solves_the_normal_equations(
    texts: list[list[int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = ragged(texts)
    targets = rng.normal(size=(len(texts), 3)).astype(np.float16)
    prior = rng.normal(size=(7, 3)).astype(np.float32)
    weights = rng.integers(0, 4, len(texts)).astype(np.float32)
    penalties = rng.uniform(0.1, 0.9, 7).astype(np.float32)
    options: Any = {"penalties": penalties, "n_iter": 30, "weights": weights}
    table = fit_ridge(tokens, targets, prior, **options)
    expected = exact(tokens, targets.astype(float), prior, penalties, weights)
    np.testing.assert_allclose(table, expected, rtol=2e-4, atol=2e-4)


def test_phrases_do_not_count_as_tokens() -> None:
    """With 2 tokens and a phrase, a sum is divided by the root of 2."""
    target, zeros = np.ones((1, 1), np.float32), np.zeros((3, 1), np.float32)
    options: Any = {"penalties": np.zeros(3, np.float32), "n_iter": 1}
    texts, n_tokens = ragged([[0, 1, 2]]), np.array([2])
    table = fit_ridge(texts, target, zeros, **options, n_tokens=n_tokens)
    np.testing.assert_allclose(table.sum() / np.sqrt(2), 1, rtol=1e-6)


@given(st.lists(words, min_size=1, max_size=9))
def test_the_preconditioner_is_the_diagonal(texts: list[list[int]]) -> None:
    tokens = sorted_tokens(ragged(texts))
    weights = np.arange(1, len(texts) + 1, dtype=np.float32)
    diagonal = np.zeros(7)
    add_squares(*tokens, weights, diagonal)
    counts = mean_counts(ragged(texts), 7, 0)
    np.testing.assert_allclose(diagonal, weights @ counts**2, atol=1e-12)


def test_duplicates_count_like_weights(rng: np.random.Generator) -> None:
    texts, targets = [[0, 1, 1], [2], [1, 2]], rng.normal(size=(3, 5))
    targets, prior = targets.astype(np.float32), np.zeros((4, 5), np.float32)
    options: dict[str, Any] = {"penalties": np.full(4, 0.1, np.float32), "n_iter": 20}
    once = fit_ridge(
        ragged(texts),
        targets,
        prior,
        weights=np.array([3, 1, 2], np.float32),
        **options,
    )
    order = [0, 0, 0, 1, 2, 2]
    often = fit_ridge(
        ragged([texts[k] for k in order]), targets[order], prior, **options
    )
    np.testing.assert_allclose(once, often, atol=1e-5)


@pytest.mark.parametrize("alpha", [0, 0.03])
def test_tokens_of_no_text_keep_their_prior(
    rng: np.random.Generator, alpha: float
) -> None:
    prior = rng.normal(size=(3, 2)).astype(np.float32)
    targets = np.array([[1, 0], [0, 1]], np.float16)
    penalties = np.full(3, alpha, np.float32)
    options: Any = {"penalties": penalties, "n_iter": 5}
    table = fit_ridge(ragged([[0], []]), targets, prior, **options)
    np.testing.assert_array_equal(table[1:], prior[1:])
    assert not np.allclose(table[0], prior[0])


def test_the_number_of_threads_does_not_change_a_bit(rng: np.random.Generator) -> None:
    texts = ragged([list(rng.integers(0, 50, 9)) for _ in range(200)])
    targets = rng.normal(size=(200, 150)).astype(np.float16)
    prior = rng.normal(size=(50, 150)).astype(np.float32)
    penalties = np.full(50, 0.03, np.float32)
    tables = [
        fit_ridge(texts, targets, prior, penalties=penalties, n_iter=7, n_threads=n)
        for n in (1, 2, 5, None)
    ]
    assert all(table.tobytes() == tables[0].tobytes() for table in tables)


def test_finished_columns_are_reported() -> None:
    steps: list[int] = []
    zeros = np.zeros((2, 70), np.float32)
    options: Any = {"penalties": np.ones(2, np.float32), "n_iter": 1}
    fit_ridge(ragged([[0]]), zeros[:1], zeros, **options, progress=steps.append)
    assert steps == [64, 6]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_steps_follow_the_gradient_of_the_cosine(text: list[int], seed: int) -> None:
    """Against central differences, where all rows have the same large square sum."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(4, 5)).astype(np.float32)
    target = rng.normal(size=5)
    target /= np.linalg.norm(target)

    def loss(rows: Any) -> float:
        mean = rows[text].mean(axis=0)
        return 1 - float(mean @ target / np.linalg.norm(mean))

    expected = np.zeros((4, 5))
    wide, step = table.astype(np.float64), 1e-5
    for index in np.ndindex(4, 5):
        change = np.zeros((4, 5))
        change[index] = step
        expected[index] = (loss(wide + change) - loss(wide - change)) / (2 * step)
    moved, squares = table.copy(), np.full(4, 1e12)
    tokens = ragged([text])
    found = descend_cosines(
        *(*tokens, np.ones(1, np.float32), np.zeros(1, np.int64)),
        *(target[None].astype(np.float32), 1e5, moved, squares),
    )
    assert found == pytest.approx(loss(table), abs=1e-5)
    size = float(np.linalg.norm(table[text].mean(axis=0))) * len(text)
    np.testing.assert_allclose(
        (table - moved) * 10, expected, atol=3e-5 * (1 + 1 / size)
    )


def test_refinement_brings_cosines_nearer(rng: np.random.Generator) -> None:
    texts = ragged([list(rng.integers(0, 30, 5)) for _ in range(300)])
    truth = rng.normal(size=(30, 8))
    targets = mean_counts(texts, 30) @ truth
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    start = (truth + 2 * rng.normal(size=truth.shape)).astype(np.float32)

    def loss(table: Any) -> float:
        means = mean_counts(texts, 30) @ table
        return 1 - float(
            np.mean((means * targets).sum(axis=1) / np.linalg.norm(means, axis=1))
        )

    halves = targets.astype(np.float16)
    table = refine(texts, halves, start, n_epochs=20, seed=1)
    assert loss(table) < 0.5 * loss(start)
    assert (
        refine(texts, halves, start, n_epochs=20, seed=1).tobytes() == table.tobytes()
    )
    other = refine(texts, halves, start, n_epochs=20, seed=2)
    assert other.tobytes() != table.tobytes()
    np.testing.assert_array_equal(refine(texts, halves, start, n_epochs=0), start)


def test_texts_without_tokens_or_weight_change_nothing() -> None:
    table = np.array([[1, 0], [0, 0]], np.float32)
    texts, targets = (
        ragged([[], [1], [0]]),
        np.array([[0, 1], [0, 1], [0, 1]], np.float16),
    )
    weights = np.array([1, 1, 0], np.float32)
    found = refine(texts, targets, table, n_epochs=2, weights=weights)
    np.testing.assert_array_equal(found, table)


def test_iterations_after_convergence_change_nothing() -> None:
    texts = ragged([[0, 1], [2, 1], [0, 3]])
    targets = np.array([[0.74, 0.67], [-0.6, 0.8], [1, 0]], np.float16)
    prior = np.zeros((5, 2), np.float32)
    prior[4] = 1
    penalties = np.zeros(5, np.float32)
    found = fit_ridge(texts, targets, prior, penalties=penalties, n_iter=50)
    counts = mean_counts(texts, 5, 0.5)
    # One of many solutions, near the prior of zeros.
    np.testing.assert_allclose(counts @ found, targets.astype(float), atol=1e-5)
    assert np.abs(found).max() < 2
    assert (found[4] == prior[4]).all()
