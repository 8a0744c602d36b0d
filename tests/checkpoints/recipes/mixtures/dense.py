"""Small dense models, as transformers stores them, made without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ensembles._typing import Array

N_LAYERS, WIDTH, INNER, N_HEADS, N_WORDS = 2, 8, 12, 2, 11
CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": 1,
    "vocab_size": N_WORDS,
    "rms_norm_eps": 1e-6,
    "dtype": "float32",
}


def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a model type."""
    head = WIDTH // N_HEADS
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (WIDTH,),
        "post_attention_layernorm.weight": (WIDTH,),
        "self_attn.q_proj.weight": (WIDTH, WIDTH),
        "self_attn.k_proj.weight": (head, WIDTH),
        "self_attn.v_proj.weight": (head, WIDTH),
        "self_attn.o_proj.weight": (WIDTH, WIDTH),
        "mlp.gate_proj.weight": (INNER, WIDTH),
        "mlp.up_proj.weight": (INNER, WIDTH),
        "mlp.down_proj.weight": (WIDTH, INNER),
    }
    if kind == "qwen2":
        rows = {"q": WIDTH, "k": head, "v": head}
        layer |= {f"self_attn.{p}_proj.bias": (n,) for p, n in rows.items()}
    if kind == "qwen3":
        layer |= {f"self_attn.{p}_norm.weight": (head,) for p in "qk"}
    outside = {
        "model.embed_tokens.weight": (N_WORDS, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (N_WORDS, WIDTH),
    }
    layers = {
        f"model.layers.{i}.{n}": s for i in range(N_LAYERS) for n, s in layer.items()
    }
    return outside | layers


def save_dense(
    folder: Path, seed: int, kind: str = "llama", **config: Any
) -> dict[str, Array]:
    """Write a model with random tensors, and return them."""
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes(kind).items()
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    head = {"head_dim": WIDTH // N_HEADS} if kind == "qwen3" else {}
    contents = CONFIG | head | {"model_type": kind, **config}
    (folder / "config.json").write_text(json.dumps(contents))
    return tensors
