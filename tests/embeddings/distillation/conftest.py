"""A transformer of two words, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A transformer of eight tokens at most, with a WordPiece tokenizer."""
    return make_transformer(tmp_path_factory.mktemp("transformer"))


def make_transformer(path: Path) -> Any:
    """A transformer whose layers are in a new folder."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    from sentence_transformers.sentence_transformer import modules

    path.mkdir(exist_ok=True)
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
