"""Combination of teachers, and overlap with evaluation texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.embeddings.distillation.alignment import align, fit_alignment
from ensembles.embeddings.distillation.overlap import find_overlap


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def combine(parts: list[Any]) -> Any:
    matrices = fit_alignment(parts)
    out = np.empty((len(parts[0]), matrices[0].shape[1]), np.float16)
    return align(parts, matrices, out).astype(np.float64)


def test_a_rotated_teacher_adds_nothing(rng: np.random.Generator) -> None:
    first = unit(rng.normal(size=(5000, 6))).astype(np.float16)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    second = (first.astype(np.float64) @ rotation).astype(np.float16)
    np.testing.assert_allclose(combine([first, second]), first, atol=2e-3)
    assert not np.allclose(second, first, atol=0.1)


def test_rotations_are_those_of_scipy(rng: np.random.Generator) -> None:
    from scipy.linalg import orthogonal_procrustes

    parts = [unit(rng.normal(size=(50, 4))).astype(np.float16) for _ in range(3)]
    matrices = fit_alignment(parts)
    for part, matrix in zip(parts, matrices, strict=True):
        expected, _ = orthogonal_procrustes(part.astype(float), parts[0].astype(float))
        np.testing.assert_allclose(matrix, expected, atol=1e-9)


def test_teachers_of_other_lengths_keep_the_cosines_of_the_concatenation(
    rng: np.random.Generator,
) -> None:
    hidden = rng.normal(size=(300, 3))
    parts = [
        unit(hidden @ rng.normal(size=(3, dim))).astype(np.float16) for dim in (4, 7)
    ]
    both = unit(np.concatenate(parts, axis=1).astype(np.float64))
    found = combine(parts)
    assert found.shape == (300, 7)
    np.testing.assert_allclose(found @ found.T, both @ both.T, atol=5e-3)


def test_texts_of_the_evaluation_are_found() -> None:
    texts = ["A man, a plan: a canal", "unrelated", ""]
    pairs = ["a man a plan a canal!", "See a man a plan a boat", "...", "short one"]
    found = find_overlap(iter(texts), iter(pairs))
    assert found[:2] == (1, 3)
    # a man a plan a | man a plan a canal | see a man a plan | man a plan a boat
    assert found[2:] == (2, 4)
    assert found.share == pytest.approx(0.5)


def test_nothing_overlaps_with_nothing() -> None:
    assert find_overlap([], []).share == 0
    assert find_overlap(["a b c d e"], ["f g h i j"])[:3] == (0, 1, 0)
