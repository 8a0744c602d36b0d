"""Small random models for recipes, and examples: a recipe with its members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING or __package__:  # a test imports it from the package
    from benchmarks.recipe_oracles import Array
else:
    from recipe_oracles import Array

Tensors = Mapping[str, Mapping[str, Array]]
Formula = Callable[[str, Tensors], Array]
N_LAYERS = 5
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 20,
    "max_position_embeddings": 32,
}
LLAMA = ("LlamaConfig", "LlamaForCausalLM", SIZES)
MISTRAL = ("MistralConfig", "MistralForCausalLM", SIZES)
TIED = {"tie_word_embeddings": True}
QWEN2 = ("Qwen2Config", "Qwen2ForCausalLM", SIZES | TIED)
QWEN3 = ("Qwen3Config", "Qwen3ForCausalLM", SIZES | TIED | {"head_dim": 8})
GEMMA2 = ("Gemma2Config", "Gemma2ForCausalLM", SIZES | {"head_dim": 8})
PHI3 = ("Phi3Config", "Phi3ForCausalLM", SIZES | {"pad_token_id": 0})
GPT2 = (
    "GPT2Config",
    "GPT2LMHeadModel",
    {"n_embd": 16, "n_layer": 5, "n_head": 4, "vocab_size": 20, "n_positions": 32},
)
BERT_SIZES = {key: size for key, size in SIZES.items() if "key_value" not in key}
BERT = ("BertConfig", "BertForMaskedLM", BERT_SIZES)
WHISPER = (
    "WhisperConfig",
    "WhisperForConditionalGeneration",
    {
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 24),
        **dict.fromkeys(("max_source_positions", "max_target_positions"), 8),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
        **{"d_model": 16, "num_mel_bins": 4, "vocab_size": 20},
        "decoder_start_token_id": 2,
    },
)
T5 = (
    "T5Config",
    "T5ForConditionalGeneration",
    {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    | {
        "vocab_size": 20,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
    },
)
QWEN2_VL = (
    "Qwen2VLConfig",
    "Qwen2VLForConditionalGeneration",
    {
        "text_config": {
            **SIZES,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1]},
        },
        "vision_config": {"depth": 2, "embed_dim": 16, "num_heads": 2}
        | {"hidden_size": 16, "patch_size": 2, "mlp_ratio": 2},
        **dict.fromkeys(("image_token_id", "video_token_id"), 19),
        **{"vision_start_token_id": 17, "vision_end_token_id": 18},
    },
)
BASE = "models/base"
CHAT, CODE, MATH = "models/chat", "models/code", "models/math"


class Example(NamedTuple):
    """A recipe and its members.

    Parameters
    ----------
    kind : tuple
        Class of the configuration, class of the model, and sizes.
    members : tuple of str
        Paths of the models, relative to a folder; ``BASE`` is the common ancestor.
    recipe : str
        YAML, with these paths.
    formula : callable or None
        Tensor of the result in float64; None if the two tools are compared only.
    n_layers : int
        Number of layers of the result.
    dtype : str
        Dtype of the members and of the result.
    """

    kind: tuple[str, str, dict[str, Any]]
    members: tuple[str, ...]
    recipe: str
    formula: Formula | None
    n_layers: int = N_LAYERS
    dtype: str = "float32"


def make_members(folder: Path, example: Example) -> None:
    """Write the members: copies of one random model, each with changes of its own."""
    import torch
    import transformers

    config_class, model_class, sizes = example.kind
    config = getattr(transformers, config_class)(**sizes)
    for number, path in enumerate(sorted(example.members), 1):
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(config)
        with torch.no_grad():
            _add_noise(model)  # norms other than 1, biases other than 0
            if path != BASE:
                torch.manual_seed(number)
                _add_noise(model)
        model.to(getattr(torch, example.dtype)).save_pretrained(folder / path)


def _add_noise(model: Any) -> None:
    import torch

    for parameter in model.parameters():
        parameter += 0.02 * torch.randn(parameter.shape)


def tensors_of(folder: Path) -> dict[str, Array]:
    """All tensors of a model in float64."""
    from safetensors.numpy import load_file

    tensors: dict[str, Array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored = load_file(file)
        tensors |= {name: array.astype(np.float64) for name, array in stored.items()}
    return tensors


def unit(array: Array, dtype: str) -> float:
    """Unit in the last place of the largest entry, in the dtype of the result."""
    largest = max(float(np.abs(array).max(initial=0)), 1e-6)
    n_bits = {"float32": 23, "float16": 10, "bfloat16": 7}[dtype]
    return float(2.0 ** (np.floor(np.log2(largest)) - n_bits))
