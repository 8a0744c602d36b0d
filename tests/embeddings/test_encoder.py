"""SentenceEncoder, on a model of two words and one layer made here."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.embeddings.encoder import SentenceEncoder
from ensembles.embeddings.summary import sentence, summary
from ensembles.embeddings.tokenization.coverage import Coverage


@pytest.fixture
def model(rng: np.random.Generator) -> Any:
    transformers = pytest.importorskip("sentence_transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    table = rng.normal(size=(3, 4)).astype(np.float32)
    static = StaticEmbedding(tokenizer, embedding_weights=table)
    return transformers.SentenceTransformer(modules=[static], device="cpu")


def test_vectors_are_those_of_the_model(model: Any, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"))
    expected = model.encode(["a b", "b"])
    for given in (model, tmp_path / "model", str(tmp_path / "model")):
        encoder = SentenceEncoder(given, device="cpu").fit()
        np.testing.assert_allclose(encoder.transform(["a b", "b"]), expected, rtol=1e-6)
        assert len(encoder.get_feature_names_out()) == 4


def test_empty_and_missing_texts_are_zeros(model: Any) -> None:
    found = SentenceEncoder(model).fit_transform(["a", "", None, float("nan"), " "])
    np.testing.assert_array_equal(found[1:], 0)
    assert found[0].any()
    assert SentenceEncoder(model).fit().transform([]).shape == (0, 4)


def test_first_dimensions_lengths_and_formats(model: Any) -> None:
    plain = SentenceEncoder(model).fit_transform(["a b"])
    short = SentenceEncoder(model, n_components=2, normalize=True, dtype="float64")
    found = short.fit_transform(["a b"])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, plain[:, :2] / np.linalg.norm(plain[:, :2]))
    assert len(short.get_feature_names_out()) == 2


@pytest.mark.parametrize("params", [{"n_components": 5}, {"dtype": "binary"}])
def test_wrong_parameters_are_reported(model: Any, params: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        SentenceEncoder(model, **params).fit()


@pytest.fixture
def transformer(tmp_path: Path) -> Any:
    """A transformer of eight tokens at most, with a prompt that is no default."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    from sentence_transformers.sentence_transformer import modules

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=16,
    )
    tokenizer.save_pretrained(tmp_path)
    transformers.BertModel(config).eval().save_pretrained(tmp_path)
    layers = modules.Transformer(str(tmp_path), max_seq_length=8)
    return sentence_transformers.SentenceTransformer(
        modules=[layers, modules.Pooling(4, "mean")],
        device="cpu",
        prompts={"query": "a a "},
    )


def test_texts_that_are_cut_off_are_warned_of(transformer: Any) -> None:
    encoder = SentenceEncoder(transformer).fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.transform(["a b a b a b", "b" * 100, ""])
    long = "a b a b a b b"
    with pytest.warns(UserWarning, match="1 of 3 texts were truncated to the 8 tokens"):
        found = encoder.transform(["a", long, None])
    np.testing.assert_allclose(found[1:2], transformer.encode([long]), rtol=1e-5)
    counts = Coverage()
    encoder.transform_counted(["a", long, None], counts)
    assert (counts.n_texts, counts.n_empty, counts.n_truncated) == (3, 1, 1)


def test_the_prompt_counts_where_texts_are_cut_off(transformer: Any) -> None:
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        SentenceEncoder(transformer, prompt="a a ").fit_transform(["a b a b a"])
    transformer.default_prompt_name = "query"
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        SentenceEncoder(transformer).fit_transform(["a b a b a"])
    assert SentenceEncoder(transformer, prompt="").fit().prompt_ == ""


def test_prompts_that_are_not_used_are_reported(transformer: Any) -> None:
    encoder = SentenceEncoder(transformer).fit()
    assert "its prompts (query) are not used" in sentence(summary(encoder))
    transformer.default_prompt_name = "query"
    encoder.fit()
    assert "'a a ' is prepended to each text" in sentence(summary(encoder))
    assert summary(encoder)["max_tokens"] == 8


def test_a_vector_that_is_not_finite_is_an_error(model: Any) -> None:
    model[0].embedding.weight.data[1, 0] = float("nan")
    encoder = SentenceEncoder(model).fit()
    with pytest.raises(ValueError, match="infinity for 1 of 2 texts, such as 'a b'"):
        encoder.transform(["b", "a b"])


def test_without_the_package_the_way_out_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'ensemble-avg\[sentence\]'"):
        SentenceEncoder("a model").fit()
