"""Weights of words, against the papers' formulas worked out by hand."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.weighting.builtin import (
    WEIGHTINGS,
    WordFrequencies,
    zipf_frequencies,
)
from ensembles.embeddings.weighting.frequencies import read_frequencies

VECTORS = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0], "d": [2.0, -1.0]}
# a is met 5 times in 3 texts, b 2 times in 2, c once; d never.
CORPUS = ["a a a b", "a b", "a c", ""]


def made(**params: Any) -> Any:  # weights_ may be None, and is not here
    return SentenceEmbedder(VECTORS, **params)


def fitted(**params: Any) -> Any:
    return made(**params).fit(CORPUS)


def test_sif_is_what_the_paper_says_on_a_corpus_worked_out_by_hand() -> None:
    embedder = fitted(weights="sif", weights_params={"a": 0.5})
    # p = 5/8, 2/8, 1/8, 0; 0.5 / (0.5 + p)
    expected = [0.5 / 1.125, 0.5 / 0.75, 0.5 / 0.625, 1]
    np.testing.assert_allclose(embedder.weights_, expected, rtol=1e-7)
    # (4/9 [1, 0] + 2/3 [0, 1]) / 2: divided by the number of words, not the weights.
    np.testing.assert_allclose(embedder.transform(["a b"]), [[2 / 9, 1 / 3]], rtol=1e-6)


def test_sif_removes_the_first_singular_vector_of_the_training_sentences() -> None:
    texts = ["a b", "a c", "b c d", "d d a"]
    embedder = SentenceEmbedder(
        VECTORS, remove_components=1, weights_params={"a": 1e-3}
    )
    found = embedder.fit_transform(texts)
    counts = {"a": 3, "b": 2, "c": 2, "d": 3}
    # Algorithm 1 of Arora, Liang & Ma (2017), line by line.
    weight = {word: 1e-3 / (1e-3 + count / 10) for word, count in counts.items()}
    sentences = np.array(
        [
            sum(weight[w] * np.array(VECTORS[w]) for w in t.split()) / len(t.split())
            for t in texts
        ]
    )
    u = np.linalg.svd(sentences.T)[0][:, :1]
    np.testing.assert_allclose(found, sentences - sentences @ u @ u.T, atol=1e-9)


def test_usif_is_what_the_paper_says() -> None:
    # 4 words of p .5, .25, .15, .1; sentences of 2 words.
    counts = {"a": 50.0, "b": 25.0, "c": 15.0, "d": 10.0}
    frequencies = WordFrequencies(
        np.array(list(counts.values())), np.array([50, 25, 15, 10.0])
    )
    found = WEIGHTINGS["usif"](frequencies, length=2)
    # 1 - (3/4)^2 = .4375 is the threshold, over which is one word in four.
    a = (1 - 0.25) / (0.25 * 4 / 2)
    p = np.array([0.5, 0.25, 0.15, 0.1])
    np.testing.assert_allclose(found, a / (a / 2 + p))


def test_usif_where_no_word_is_frequent_weighs_all_alike() -> None:
    alike = WordFrequencies(np.ones(5), np.ones(5))
    np.testing.assert_array_equal(WEIGHTINGS["usif"](alike, length=11), np.full(5, 2.0))


def test_usif_takes_the_length_of_the_texts_given_to_fit() -> None:
    # 8 words in 3 texts that have any.
    by_texts = fitted(weights="usif").weights_
    asked = fitted(weights="usif", weights_params={"length": 8 / 3}).weights_
    other = fitted(weights="usif", weights_params={"length": 1}).weights_
    np.testing.assert_array_equal(by_texts, asked)
    assert not np.array_equal(by_texts, other)


def test_usif_takes_its_components_out_by_their_shares() -> None:
    rng = np.random.default_rng(3)
    vectors = {word: rng.normal(size=6) for word in "abcdefghij"}
    texts = [" ".join(rng.choice(list(vectors), 4)) for _ in range(30)]
    plain = SentenceEmbedder(vectors, weights="usif").fit(texts)
    embedder = SentenceEmbedder(vectors, weights="usif", remove_components=3).fit(texts)
    sentences = plain.transform(texts).astype(np.float64)
    _, values, rows = np.linalg.svd(sentences, full_matrices=False)
    shares = values[:3] ** 2 / (values[:3] ** 2).sum()
    expected = sentences - sum(
        share * np.outer(sentences @ row, row)
        for share, row in zip(shares, rows[:3], strict=True)
    )
    np.testing.assert_allclose(embedder.transform(texts), expected, atol=1e-6)
    assert embedder.projection_ is not None
    np.testing.assert_allclose(embedder.projection_.shares, shares, rtol=1e-5)


def test_idf_counts_texts_and_divides_by_the_weights() -> None:
    embedder = fitted(weights="idf")
    expected = [math.log(5 / (1 + n)) + 1 for n in (3, 2, 1, 0)]
    np.testing.assert_allclose(embedder.weights_, expected, rtol=1e-6)
    a, b = expected[:2]
    np.testing.assert_allclose(
        embedder.transform(["a b"]), [[a / (a + b), b / (a + b)]], rtol=1e-6
    )


def test_zipf_is_the_weighting_of_model2vec() -> None:
    # distill/inference.py of model2vec 0.10
    inverse = 1 / np.arange(2, 6)
    expected = 1e-4 / (1e-4 + inverse / inverse.sum())
    found = WEIGHTINGS["zipf"](zipf_frequencies(4))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_mapping_weighs_words_and_others_weigh_one() -> None:
    np.testing.assert_array_equal(fitted(weights={"a": 3.0}).weights_, [3, 1, 1, 1])
    made = defaultdict(lambda: 0.5, a=3.0)
    np.testing.assert_array_equal(fitted(weights=made).weights_, [3, 0.5, 0.5, 0.5])
    assert list(made) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("wrong", [{"a": -1.0}, {"b": math.nan}, [1.0, 2.0]])
def test_wrong_weights_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        fitted(weights=wrong)


def test_the_users_corpus_comes_first_then_counts_then_ranks() -> None:
    listed = {"a": 1, "b": 1, "c": 1, "d": 1, "elsewhere": 6}
    by_list = fitted(frequencies=listed, weights_params={"a": 1.0}).weights_
    np.testing.assert_allclose(by_list, np.full(4, 1 / 1.1), rtol=1e-6)
    by_corpus = fitted(weights_params={"a": 1.0}).weights_
    np.testing.assert_allclose(by_corpus[0], 1 / (1 + 5 / 8), rtol=1e-6)
    with pytest.warns(UserWarning, match="order of its vectors"):
        by_order = made().fit().weights_
    ranks = made(frequencies="zipf").fit().weights_
    np.testing.assert_array_equal(by_order, ranks)
    # 1e-4 belongs to ranks, 1e-3 to counts.
    np.testing.assert_allclose(ranks, made(weights="zipf").fit().weights_)


def test_lists_in_capitals_serve_vectors_in_small_letters() -> None:
    found = fitted(
        frequencies={"A": 3, "a": 2, "x": 5}, weights_params={"a": 0.5}
    ).weights_
    np.testing.assert_allclose(found, [0.5, 1, 1, 1])


def test_a_file_of_counts_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "counts.txt"
    path.write_text("a 3\nb\t2\n\nnew york 7\na 1\n")
    assert read_frequencies(path) == {"a": 4, "b": 2, "new york": 7}
    found = fitted(frequencies=path, weights_params={"a": 0.5}).weights_
    np.testing.assert_allclose(found[0], 0.5 / (0.5 + 4 / 13), rtol=1e-6)


@pytest.mark.parametrize("line", ["word", "word many", " 3"])
def test_a_file_with_another_line_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.txt"
    path.write_text(f"a 3\n{line}\n")
    with pytest.raises(ValueError, match="line 2 must be a word and its count"):
        read_frequencies(path)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"frequencies": "corpus"}, "requires texts"),
        ({"frequencies": "vectors"}, "requires counts"),
        ({"frequencies": {"a": -1.0}}, "must be finite"),
        ({"weights": "idf"}, "requires texts"),
        (
            {"weights": "sif", "weights_params": {"a": 0.0}, "frequencies": "zipf"},
            "positive",
        ),
        ({"weights": "sif", "weights_params": {"b": 1}}, "of 'sif': found 'b'"),
        ({"weights": "siff"}, "did you mean 'sif'"),
    ],
)
def test_what_cannot_be_counted_is_reported(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**params).fit()


@pytest.mark.parametrize("wrong", [3, [("a", 3)]])
def test_frequencies_of_another_kind_are_reported(wrong: Any) -> None:
    with pytest.raises(TypeError, match="frequencies must be None, a mapping"):
        fitted(frequencies=wrong)


def test_words_without_a_vector_count_among_all_that_were_met() -> None:
    embedder: Any = SentenceEmbedder(
        {"a": [1.0], "b": [1.0]}, weights_params={"a": 0.5}
    )
    found: Any = embedder.fit(["a x", "y b z a"])
    np.testing.assert_allclose(
        found.weights_, [0.5 / (0.5 + 2 / 6), 0.5 / (0.5 + 1 / 6)]
    )


def test_words_that_are_named_are_put_in_small_letters_too() -> None:
    embedder = SentenceEmbedder({"a": [1.0], "b": [1.0]}, weights={"A": 0.25}).fit()
    np.testing.assert_array_equal(embedder.weights_, [0.25, 1])


def test_a_list_of_counts_may_have_tabs_and_a_mark_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "counts.txt"
    path.write_bytes("\ufeffthe\t10\nNew York\t5\n".encode())
    assert read_frequencies(path) == {"the": 10, "New York": 5}


def test_usif_never_weighs_all_words_with_nothing() -> None:
    for n_words in range(1, 400):
        alike = WordFrequencies(np.ones(n_words), np.ones(n_words))
        found = WEIGHTINGS["usif"](alike, length=1)
        np.testing.assert_array_equal(found, np.full(n_words, 2.0))
    embedder = SentenceEmbedder(VECTORS, weights="usif").fit(list(VECTORS))
    assert embedder.transform(list(VECTORS)).any(axis=1).all()


def test_counts_of_nothing_are_counts(tmp_path: Path) -> None:
    # A word that a list names with 0 was never met; the others' shares stay.
    embedder = made(weights="sif", frequencies={"a": 3, "b": 1, "c": 0}).fit()
    expected = [1e-3 / (1e-3 + share) for share in (0.75, 0.25, 0, 0)]
    np.testing.assert_allclose(embedder.weights_, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="not all zero"):
        made(frequencies={"a": 0}).fit()
    pipe = tmp_path / "counts"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="regular file"):
        read_frequencies(pipe)
