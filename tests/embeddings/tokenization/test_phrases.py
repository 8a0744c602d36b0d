"""Phrases, pairs of adjacent tokens with rows of their own, against plain Python."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.embeddings import SentenceEmbedder, WordVectors
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows
from ensembles.embeddings.tokenization.phrases import (
    append_phrases,
    check_pairs,
    count_phrases,
    phrase_table,
)

N_ROWS = 6
texts_of_rows = st.lists(st.lists(st.integers(-1, N_ROWS - 1), max_size=9), max_size=9)
pairs_of_rows = st.lists(
    st.tuples(st.integers(0, N_ROWS - 1), st.integers(0, N_ROWS - 1)), unique=True
)


def ragged(texts: list[list[int]]) -> RaggedRows:
    rows = np.array([row for text in texts for row in text], np.int32)
    return RaggedRows(rows, np.cumsum([0, *map(len, texts)]).astype(np.int64))


def as_pairs(pairs: list[tuple[int, int]]) -> Any:
    return np.array(pairs, np.int32).reshape(-1, 2)


@given(texts_of_rows, pairs_of_rows)
def test_phrases_follow_the_tokens(
    texts: list[list[int]], pairs: list[tuple[int, int]]
) -> None:
    found = append_phrases(ragged(texts), phrase_table(as_pairs(pairs), N_ROWS))
    expected = [
        text + [N_ROWS + pairs.index(p) for p in pairwise(text) if p in pairs]
        for text in texts
    ]
    assert found.rows.tolist() == [row for text in expected for row in text]
    assert np.diff(found.offsets).tolist() == [len(text) for text in expected]


@given(st.lists(texts_of_rows, max_size=3), st.integers(0, 9), st.integers(1, 3))
def test_the_most_frequent_pairs_are_found(
    batches: list[list[list[int]]], n_phrases: int, min_count: int
) -> None:
    options: Any = {"n_phrases": n_phrases, "min_count": min_count}
    pairs, counts = count_phrases(map(ragged, batches), N_ROWS, **options)
    texts = [text for batch in batches for text in batch]
    oracle = Counter(p for text in texts for p in pairwise(text) if min(p) >= 0)
    ranked = sorted(oracle.items(), key=lambda item: (-item[1], item[0]))
    ranked = [item for item in ranked if item[1] >= min_count][:n_phrases]
    assert [*map(tuple, pairs.tolist())] == [pair for pair, _ in ranked]
    assert counts.tolist() == [count for _, count in ranked]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 1, 2]], "integers of shape"),
        ([[0.5, 1.0]], "found float64"),
        ([[0, 1], [2, -1]], r"phrases\[1\] is \(2, -1\)"),
        ([[0, N_ROWS]], "rows from 0 to 5"),
    ],
)
def test_pairs_are_checked(pairs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pairs(pairs, N_ROWS)


def test_a_duplicate_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"phrases\[2\] is \(0, 1\), which is already"):
        phrase_table(as_pairs([(0, 1), (1, 0), (0, 1)]), N_ROWS)


VECTORS = np.array([[1, 0], [0, 1], [2, 2], [5, 0]], np.float32)


def embedder(**params: Any) -> SentenceEmbedder:
    """Three words, and the phrase "a b"."""
    vectors = WordVectors(["a", "b", "c", ""], VECTORS, phrases=as_pairs([(0, 1)]))
    return SentenceEmbedder(vectors, **{"weights": None, **params})


def test_a_phrase_counts_as_a_token_of_the_mean() -> None:
    found = embedder().fit().transform(["a b", "b a", "a z b", "c", ""])
    expected: list[list[float]] = [[2, 1 / 3], [0.5, 0.5], [0.5, 0.5], [2, 2], [0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_coverage_counts_tokens_alone() -> None:
    fitted = embedder().fit()
    np.testing.assert_array_equal(fitted.coverage(["a b", "a b z"]), [1, 2 / 3])
    assert embedder(weights="idf").fit(["a b", "a z"]).coverage_ == 3 / 4


@pytest.mark.parametrize(
    "params", [{}, {"weights": "sif"}, {"rule": "maximum"}, {"weights": "usif"}]
)
def test_saved_phrases_are_loaded(params: Any, tmp_path: Path) -> None:
    texts = ["a b", "b a c", "c a b c", "b", "a z b", "c c"]
    fitted = embedder(**params).fit(texts)
    fitted.save(tmp_path / "saved")
    loaded = SentenceEmbedder.load(tmp_path / "saved")
    np.testing.assert_allclose(
        loaded.transform(texts), fitted.transform(texts), rtol=1e-5
    )
    assert "embeddings" not in (tmp_path / "saved/model.safetensors").read_bytes()[
        :400
    ].decode("latin-1")
    again = SentenceEmbedder.load(tmp_path / "saved")
    again.save(tmp_path / "again")
    last = SentenceEmbedder.load(tmp_path / "again")
    np.testing.assert_array_equal(last.transform(texts), loaded.transform(texts))


def test_unknown_words_are_skipped() -> None:
    with pytest.raises(ValueError, match="unknown must be 'skip'"):
        embedder(unknown="error").fit()
