"""Layers of models of several families stacked, and loaded by transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import plan_recipe, read_recipes, write

transformers = pytest.importorskip("transformers")
SIZES = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 12,
    "vocab_size": 11,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Model class, its options, the stack of layers, and the key of their number.
LLAMA = ("model.layers", "num_hidden_layers")
WINDOWED = {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "llama": ("Llama", {}, LLAMA),
    "mistral": ("Mistral", {"sliding_window": 4}, LLAMA),
    "qwen2": ("Qwen2", {"use_sliding_window": False}, LLAMA),
    "qwen2, windows": ("Qwen2", WINDOWED, LLAMA),
    "qwen3": ("Qwen3", {}, LLAMA),
    "qwen3 moe": (
        "Qwen3Moe",
        {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 4,
            "mlp_only_layers": [1, 2],
        },
        LLAMA,
    ),
    "gemma2": ("Gemma2", {"sliding_window": 4}, LLAMA),
    "gemma3": ("Gemma3", {"sliding_window": 4}, LLAMA),
    "phi": ("Phi", {}, LLAMA),
    "gpt2": (
        "GPT2",
        {"n_embd": 8, "n_head": 2, "n_inner": 12, "n_positions": 16},
        ("transformer.h", "n_layer"),
    ),
}


def build(family: str, seed: int) -> Any:
    name, options, (_, count) = FAMILIES[family]
    torch.manual_seed(seed)
    config_name = f"{name}TextConfig" if name == "Gemma3" else f"{name}Config"
    sizes = SIZES | {count: 4} | options
    if name == "GPT2":
        sizes = {
            k: v for k, v in sizes.items() if not k.startswith(("hid", "num", "int"))
        }
    config = getattr(transformers, config_name)(**sizes)
    suffix = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    return getattr(transformers, name + suffix)(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_stacked_layers_load_and_compute_what_they_computed(
    family: str, tmp_path: Path
) -> None:
    stack, count = FAMILIES[family][2]
    models = {name: build(family, seed) for seed, name in enumerate("ab")}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    (tmp_path / "recipe.yml").write_text(
        f"""\
slices:
  - sources: [{{model: {tmp_path}/a, layer_range: [0, 3]}}]
  - sources: [{{model: {tmp_path}/b, layer_range: [0, 4]}}]
merge_method: passthrough
dtype: float32
"""
    )
    (recipe,) = read_recipes(tmp_path / "recipe.yml")
    write(plan_recipe(recipe, tmp_path / "out"))
    merged, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert getattr(merged.config, count) == 7
    chosen = [("a", n) for n in range(3)] + [("b", n) for n in range(4)]
    layers = merged.get_submodule(stack)
    rows = torch.arange(10)[None] % 11
    hidden = models["a"].get_input_embeddings()(rows)
    for layer, (name, number) in zip(layers, chosen, strict=True):
        own = models[name].get_submodule(stack)[number]
        for key, value in own.state_dict().items():
            assert torch.equal(value, layer.state_dict()[key])
        for attribute in ("attention_type", "is_sliding", "sliding_window"):
            for ours, theirs in ((layer, own), *pairs_of(layer, own)):
                if hasattr(theirs, attribute):
                    assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert (
        hidden.shape == merged(rows, output_hidden_states=True).hidden_states[-1].shape
    )


def pairs_of(layer: Any, other: Any) -> list[tuple[Any, Any]]:
    return [(getattr(layer, "self_attn", None), getattr(other, "self_attn", None))]
