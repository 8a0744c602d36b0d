"""Vocabularies of distilled tables."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ensembles.embeddings.distillation.vocabulary import (
    known_rows,
    make_vocabulary,
    sif_weights,
    token_texts,
    tokenize,
)
from ensembles.embeddings.vectors.lookup import VocabularyLookup

TEXTS = ["Good good dogs", "dogs, a zebra", "ab \U0001f600"]


@pytest.fixture
def wordpiece() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "a", "##b", "good", "dog", "##s", "##"]
    model = tokenizers.models.WordPiece(
        vocab={word: row for row, word in enumerate(words)}, unk_token="[UNK]"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding()
    return tokenizer


def tokens_of(vectors: Any, text: str) -> list[str]:
    return [vectors.tokens[row] for row in tokenize(vectors, [text]).rows.rows]


def test_the_tokenizer_of_the_teacher_loses_truncation(wordpiece: Any) -> None:
    vectors = make_vocabulary(None, wordpiece, TEXTS, 5)
    assert tokens_of(vectors, "good good dogs a") == ["good", "good", "dog", "##s", "a"]
    assert tokens_of(vectors, "zebra") == []
    assert wordpiece.truncation["max_length"] == 2
    assert vectors.tokenizer.padding is None
    same = make_vocabulary(vectors.tokenizer, None, TEXTS, 5)
    assert [*same.tokens] == [*vectors.tokens]


def test_words_are_added_to_wordpiece(wordpiece: Any) -> None:
    vectors = make_vocabulary("words", wordpiece, TEXTS, 2)
    assert vectors.tokens[8:] == ["dogs"]  # "good" is a token already
    assert tokens_of(vectors, "Dogs dog ab") == ["dogs", "dog", "a", "##b"]
    many = make_vocabulary("words", wordpiece, TEXTS, 100)
    assert tokens_of(many, "zebra \U0001f600") == ["zebra", "\U0001f600"]
    assert [*many.tokens[8:11]] == ["dogs", ",", "ab"]


def test_long_words_are_found(wordpiece: Any) -> None:
    word = "x" * 150  # longer than WordPiece's default of 100 characters
    vectors = make_vocabulary("words", wordpiece, [word], 100)
    assert tokens_of(vectors, word) == [word]


@pytest.mark.parametrize("tokenizer", [None, "unigram"])
def test_without_wordpiece_the_words_are_the_tokens(tokenizer: str | None) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    other = (
        None
        if tokenizer is None
        else tokenizers.Tokenizer(tokenizers.models.Unigram([("a", -1.0)], 0))
    )
    vectors = make_vocabulary("words", other, ["B a b", "ü a"], 3)
    assert vectors.tokens == ["a", "b", "ü"]
    assert tokens_of(vectors, "A Ü c") == ["a", "ü"]


def test_wrong_tokenizers_are_reported() -> None:
    with pytest.raises(
        ValueError, match=r"has no Hugging Face tokenizer; pass tokenizer='words'"
    ):
        make_vocabulary(None, None, TEXTS, 5)
    with pytest.raises(TypeError, match=r"None, 'words' or a tokenizers\.Tokenizer"):
        make_vocabulary(r"\w+", None, TEXTS, 5)
    with pytest.raises(ValueError, match="texts must have words"):
        make_vocabulary("words", None, ["..."], 5)


def test_tokens_are_texts_without_their_prefixes(wordpiece: Any) -> None:
    vectors = make_vocabulary(None, wordpiece, TEXTS, 5)
    assert token_texts(vectors) == ["", "", "a", "b", "good", "dog", "s", "##"]
    words = make_vocabulary("words", None, ["##s a"], 5)
    assert token_texts(words) == ["a", "s"]


def test_sif_weights_are_those_of_smoothed_counts() -> None:
    tokens = tokenize(make_vocabulary("words", None, ["a a b"], 5), ["a a b"]).rows
    expected = 1e-3 / (1e-3 + np.array([3, 2, 1]) / 6)
    np.testing.assert_allclose(sif_weights(tokens, 3), expected, rtol=1e-6)


def test_phrases_follow_the_tokens_as_in_the_embedder() -> None:
    """Pairs that occur five times; an unknown word separates its neighbours."""
    texts = ["a b", "a b c"] * 5 + ["c a", "a z b"]
    words = make_vocabulary("words", None, texts[:10], 5)
    found = tokenize(words, texts, 9)
    phrases: Any = found.vocabulary.phrases
    assert phrases.tolist() == [[0, 1], [1, 2]]  # a b, b c
    assert [*found.vocabulary.tokens] == ["a", "b", "c", "", ""]
    assert found.n_tokens.tolist() == [2, 3] * 5 + [2, 2]
    starts = found.rows.offsets
    rows = [found.rows.rows[a:b].tolist() for a, b in pairwise(starts)]
    assert rows[:2] == [[0, 1, 3], [0, 1, 2, 3, 4]]
    assert rows[-2:] == [[2, 0], [0, 1]]
    again = VocabularyLookup(found.vocabulary, None, None, "skip").row_tokenizer(texts)
    np.testing.assert_array_equal(known_rows(again).rows, found.rows.rows)
    fewer: Any = tokenize(words, texts, 1).vocabulary.phrases
    assert len(fewer) == 1
    assert tokenize(words, ["a b"], 9).vocabulary is words
    weights = sif_weights(found.rows, 3)
    np.testing.assert_array_equal(weights, sif_weights(tokenize(words, texts).rows, 3))
