"""Cosine matrices, search, mining and near-duplicates beside plain loops in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensembles.embeddings import (
    cosine_matrix,
    near_duplicates,
    paired_cosines,
    paraphrase_mining,
    semantic_search,
)
from ensembles.embeddings.similarity import bounds, mining, unit_rows
from ensembles.embeddings.similarity import near_duplicates as duplicates
from ensembles.embeddings.similarity.bounds import BoundedRows, Sample
from ensembles.embeddings.similarity.unit_rows import UnitRows

Array = NDArray[Any]
KINDS = ("float32", "float16", "float64", "int8", "uint8", "scaled")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and tiles with a few rows, so that small data have many."""
    monkeypatch.setattr(unit_rows, "BLOCK_BYTES", 64 * 4 * 8)
    monkeypatch.setattr(unit_rows, "PAIRS", 50)
    monkeypatch.setattr(bounds, "GATHERED_PAIRS", 30)
    for module in (bounds, duplicates, mining):
        monkeypatch.setattr(module, "TILE", 64)
        monkeypatch.setattr(module, "BUFFER", 64 * 40)


def vectors_of(kind: str, rng: np.random.Generator) -> Array:
    """Vectors with equal and similar rows, and zero vectors."""
    n = 300
    if kind == "uint8":
        bits = rng.integers(0, 256, (n, 8)).astype(np.uint8)
        bits[10:20], bits[::7] = bits[3], 0
        bits[25] = bits[24] ^ np.eye(8, dtype=np.uint8)[0]
        return bits
    vectors = rng.normal(size=(n, 24)) * np.linspace(20, 1, 24)
    vectors[60:180] = vectors[5] + rng.normal(size=(120, 24)) * rng.random((120, 1)) * 9
    vectors[200:215], vectors[::7] = vectors[4], 0
    if kind == "scaled":  # beyond the squares of float64
        return np.asarray(vectors * 10.0 ** rng.integers(-200, 200, (n, 1)))
    return vectors.astype(kind)


def all_cosines(first: Array, second: Array) -> Array:
    return np.array([paired_cosines(second, row[None]) for row in first])


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_holds_the_cosines_of_all_pairs(
    kind: str, rng: np.random.Generator
) -> None:
    a, b = vectors_of(kind, rng), vectors_of(kind, rng)[-90:]
    bound = unit_rows.error_bound(64)
    found = cosine_matrix(a, b)
    assert found.dtype == np.float32
    assert np.abs(found - all_cosines(a, b)).max() <= bound
    out = np.empty((300, 300))
    assert cosine_matrix(a, out=out) is not None
    assert np.abs(out - all_cosines(a, a)).max() <= bound
    assert (out == out.T).all()


def test_a_matrix_refuses_what_does_not_match(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"same number of columns.*uint8"):
        cosine_matrix(np.ones((2, 16)), np.ones((2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"out must be float32 or float64 of shape"):
        cosine_matrix(np.ones((2, 3)), out=np.empty((2, 3)))
    with pytest.raises(ValueError, match=r"must be numbers of shape \(n, dim\)"):
        cosine_matrix(np.ones(3))
    assert cosine_matrix(np.ones((0, 3)), np.ones((2, 3))).shape == (0, 2)


def brute_force(queries: Array, documents: Array, k: int) -> tuple[Array, Array]:
    cosines = all_cosines(queries, documents)
    order = np.array([np.lexsort((np.arange(len(row)), -row))[:k] for row in cosines])
    return order, np.take_along_axis(cosines, order, axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 12, 400])
def test_a_search_is_exact(kind: str, k: int, rng: np.random.Generator) -> None:
    documents = vectors_of(kind, rng)
    queries = documents[[0, 1, 4, 5, 61, 299]]
    indices, cosines = brute_force(queries, documents, k)
    found = semantic_search(queries, documents, k)
    assert found.indices.tolist() == indices.tolist()
    assert found.cosines.tolist() == cosines.tolist()
    parts = iter([documents[:1], documents[1:150], documents[150:150], documents[150:]])
    assert semantic_search(queries, parts, k).indices.tolist() == indices.tolist()


def test_a_file_is_searched_where_it_lies(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    np.save(tmp_path / "v.npy", vectors_of("float16", rng))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    n_seen: list[int] = []
    found = semantic_search(mapped[1:2], mapped, 3, progress=n_seen.append)
    assert found.indices.tolist() == brute_force(mapped[1:2], mapped, 3)[0].tolist()
    assert sum(n_seen) == 300
    assert len(n_seen) > 1
    assert isinstance(UnitRows(mapped).vectors.base, np.memmap)


def test_a_zero_vector_has_cosine_zero_with_all() -> None:
    found = semantic_search([[0, 0]], [[-1, 0], [1, 0], [0, 0]], 2)
    assert found.indices.tolist() == [[0, 1]]
    assert found.cosines.tolist() == [[0, 0]]
    found = semantic_search([[1, 0]], [[-1, 0], [0, 0], [0, 1], [0, 0]], 3)
    assert found.indices.tolist() == [[1, 2, 3]]
    assert semantic_search(np.ones((0, 2)), np.ones((3, 2))).indices.shape == (0, 3)
    assert semantic_search(np.ones((2, 2)), np.ones((0, 2))).indices.shape == (2, 0)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(broken: float) -> None:
    vectors = np.ones((200, 3), np.float32)
    vectors[150, 1] = broken
    message = "must be finite, found NaN or infinity in row 150"
    with pytest.raises(ValueError, match=f"documents {message}"):
        semantic_search(vectors[:1], vectors)
    with pytest.raises(ValueError, match=f"queries {message}"):
        semantic_search(vectors, vectors[:1])
    for function in (near_duplicates, paraphrase_mining, cosine_matrix):
        with pytest.raises(ValueError, match=message):
            function(vectors)
    with pytest.raises(ValueError, match="k must be a positive int, found 0"):
        semantic_search(vectors[:1], vectors[:1], 0)


def greedy(vectors: Array, threshold: float) -> list[int]:
    cosines = all_cosines(vectors, vectors)
    representatives, kept = list(range(len(vectors))), list[int]()
    for i in range(len(vectors)):
        similar = [j for j in kept if cosines[i, j] >= threshold]
        if similar:
            representatives[i] = similar[0]
        else:
            kept.append(i)
    return representatives


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.9, 1.0])
def test_near_duplicates_are_those_of_a_loop(
    kind: str, threshold: float, rng: np.random.Generator
) -> None:
    vectors = vectors_of(kind, rng)
    n_pairs: list[int] = []
    found = near_duplicates(vectors, threshold, n_jobs=2, progress=n_pairs.append)
    expected = np.array(greedy(vectors, threshold))
    assert found.representatives.tolist() == expected.tolist()
    assert sum(n_pairs) == 300 * 299 // 2
    again = near_duplicates(vectors, threshold)
    assert (again.representatives == expected).all()
    dropped = ~found.keep
    assert (found.cosines[~dropped] == 1).all()
    kept = paired_cosines(vectors[dropped], vectors[expected[dropped]])
    assert found.cosines[dropped].tolist() == kept.tolist()
    groups = found.groups()
    assert sum(len(group) - 1 for group in groups) == dropped.sum()
    for group in groups:
        assert set(expected[group]) == {group[0]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("threshold", "max_pairs"), [(-1, 50), (0.5, 90_000), (0, 7)])
def test_mined_pairs_are_the_best_of_all(
    kind: str, threshold: float, max_pairs: int, rng: np.random.Generator
) -> None:
    vectors = vectors_of(kind, rng)
    first, second = np.triu_indices(300, 1)
    cosines = all_cosines(vectors, vectors)[first, second]
    order = np.lexsort((second, first, -cosines))[:max_pairs]
    order = order[cosines[order] >= threshold]
    n_pairs: list[int] = []
    options: dict[str, Any] = {"threshold": threshold, "max_pairs": max_pairs}
    found = paraphrase_mining(vectors, n_jobs=2, progress=n_pairs.append, **options)
    assert sum(n_pairs) == len(first)
    assert found.first.tolist() == first[order].tolist()
    assert found.second.tolist() == second[order].tolist()
    assert found.cosines.tolist() == cosines[order].tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1), st.integers(17, 40))
def test_bounds_are_never_below_the_cosine(seed: int, spread: float, dim: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(80, dim)) * spread ** np.arange(dim)
    vectors[3] = 0
    rows = UnitRows(vectors)
    bounded = BoundedRows(rows, Sample(rows), 0.5)
    limit = bounded.columns.astype(np.float64) @ bounded.columns.T.astype(np.float64)
    assert (limit + bounded.bound_error >= all_cosines(vectors, vectors)).all()


def test_fewer_axes_are_kept_where_they_suffice(rng: np.random.Generator) -> None:
    spread = rng.normal(size=(500, 96)) * 0.8 ** np.arange(96)
    rows = UnitRows(spread)
    assert Sample(rows).n_axes(0.95) < 96
    cone = UnitRows(np.ones(96) + 0.01 * rng.normal(size=(500, 96)))
    bounded = BoundedRows(cone, Sample(cone), 0.5)
    # All pairs reach the threshold: few axes, then matrix products with all columns.
    assert bounded.columns.shape[1] < 96
    assert near_duplicates(cone.vectors, 0.5).keep.sum() == 1


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
        near_duplicates(np.ones((2, 2)), 0.0)
    with pytest.raises(ValueError, match="threshold must be from -1 to 1"):
        paraphrase_mining(np.ones((2, 2)), threshold=float("nan"))
    with pytest.raises(ValueError, match="max_pairs must be a positive int"):
        paraphrase_mining(np.ones((2, 2)), max_pairs=0)
    with pytest.raises(ValueError, match="n_jobs must not be 0"):
        near_duplicates(np.ones((2, 2)), n_jobs=0)


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows_have_no_pairs(n: int) -> None:
    assert near_duplicates(np.ones((n, 2))).keep.tolist() == [True] * n
    assert near_duplicates(np.ones((n, 2))).groups() == []
    assert paraphrase_mining(np.ones((n, 2))).cosines.tolist() == []


def test_k_may_be_larger_than_memory(rng: np.random.Generator) -> None:
    documents, queries = rng.normal(size=(150, 8)), rng.normal(size=(3, 8))
    cosines = all_cosines(queries, documents)
    found = semantic_search(queries, iter([documents[:70], documents[70:]]), k=10**15)
    expected = np.argsort(-cosines, axis=1, kind="stable")
    assert (found.indices == expected).all()
    assert (found.cosines == np.take_along_axis(cosines, expected, axis=1)).all()
    none = semantic_search(queries, documents[:0], k=10**15)
    assert none.indices.shape == none.cosines.shape == (3, 0)
