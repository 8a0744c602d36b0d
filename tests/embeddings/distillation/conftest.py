"""A transformer of two words, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A transformer of eight tokens at most, with a WordPiece tokenizer."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    from sentence_transformers.sentence_transformer import modules

    path: Path = tmp_path_factory.mktemp("transformer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "good"]
    (path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(str(path / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    tokenizer.save_pretrained(path)
    transformers.set_seed(0)
    transformers.BertModel(config).eval().save_pretrained(path)
    layers = modules.Transformer(str(path), max_seq_length=8)
    return sentence_transformers.SentenceTransformer(
        modules=[layers, modules.Pooling(8, "mean")], device="cpu"
    )
