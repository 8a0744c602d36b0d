"""SentenceEncoder, on a model of two words and one layer made here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.embeddings.encoder import SentenceEncoder


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


@pytest.mark.parametrize("params", [{"n_components": 5}, {"dtype": "bits"}])
def test_wrong_parameters_are_told(model: Any, params: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        SentenceEncoder(model, **params).fit()


def test_without_the_package_the_way_out_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'ensemble-avg\[sentence\]'"):
        SentenceEncoder("a model").fit()
