"""Three toy languages, and tiny models that are trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import Generator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

transformers = pytest.importorskip("transformers")
LANGUAGES = (
    ("red", "green", "blue", "white", "black", "gray"),
    ("one", "two", "three", "four", "five", "six"),
    ("do", "re", "mi", "fa", "so", "la"),
)
WORDS = ["<s>", "</s>", "<unk>", *(word for words in LANGUAGES for word in words)]
SIZES = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(WORDS)},
    **{"bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 64},
}
CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen3": (
        transformers.Qwen3Config,
        transformers.Qwen3ForCausalLM,
        {"head_dim": 16},
    ),
}


def model(kind: str, seed: int = 0, **sizes: Any) -> Any:
    """A model of a type with random parameters."""
    config, architecture, head = CLASSES[kind]
    torch.manual_seed(seed)
    return architecture(config(**SIZES | head | sizes)).eval()


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def text(rng: Generator, language: int, n_words: int = 12) -> str:
    """Words of a language; each is one or two after the one before."""
    position, words = int(rng.integers(6)), []
    for _ in range(n_words):
        words.append(LANGUAGES[language][position])
        position = (position + 1 + int(rng.integers(2))) % 6
    return " ".join(words)


def ids(texts: Sequence[str]) -> torch.Tensor:
    """Token ids of texts with the same number of words."""
    return torch.tensor([[0, *map(WORDS.index, text.split())] for text in texts])


def train(
    model: Any, rng: Generator, languages: Sequence[int], n_steps: int, rate: float
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(n_steps):
        batch = ids([text(rng, language) for language in languages for _ in range(6)])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


def loss(model: Any, rng: Generator, language: int) -> float:
    """Mean loss of a word on new texts."""
    batch = ids([text(rng, language) for _ in range(30)])
    with torch.no_grad():
        return float(model(input_ids=batch, labels=batch).loss)
