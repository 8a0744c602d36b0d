"""Tiny models that transformers and sentence-transformers save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

transformers = pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "mean", "of", "models"]
TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama(seed: int, tied: bool = True, vocab_size: int = 11) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        **TINY,
        vocab_size=vocab_size,
        intermediate_size=8,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def saved(folder: Path, models: list[Any], **options: Any) -> list[Path]:
    for number, model in enumerate(models):
        model.save_pretrained(folder / f"m{number}", **options)
    return [folder / f"m{number}" for number in range(len(models))]


def words_tokenizer() -> Any:
    """Tokenizer of transformers that splits texts into `WORDS`."""
    words = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[UNK]",
        model_max_length=16,
    )


def encoder(folder: Path, seed: int) -> Path:
    """A sentence encoder of two modules with weights, and a pooling between them."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Pooling,
        Transformer,
    )

    torch.manual_seed(seed)
    config = transformers.BertConfig(
        **TINY, vocab_size=len(WORDS), intermediate_size=8, max_position_embeddings=16
    )
    transformers.BertModel(config).save_pretrained(folder / "bert")
    words_tokenizer().save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(8), Dense(8, 3)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "st"))
    return folder / "st"
