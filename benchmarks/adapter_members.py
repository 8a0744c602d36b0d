"""LoRA adapters with the shapes of a Llama, and their updates in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

Array = np.ndarray[Any, np.dtype[np.float64]]
Layout = Mapping[str, tuple[int, int]]
FILE = "adapter_model.safetensors"
ALPHA = 32
PREFIX = "base_model.model."


def modules(hidden: int, n_layers: int) -> Layout:
    """Names of the modules with adapters, with their numbers of outputs and inputs."""
    inner = math.ceil(hidden * 8 / 3 / 256) * 256
    shapes = {f"self_attn.{part}_proj": (hidden, hidden) for part in "qkvo"}
    shapes |= {f"mlp.{part}_proj": (inner, hidden) for part in ("gate", "up")}
    shapes["mlp.down_proj"] = (hidden, inner)
    return {
        f"model.layers.{layer}.{name}": shape
        for layer in range(n_layers)
        for name, shape in shapes.items()
    }


def make(folder: Path, layout: Layout, *, rank: int, seed: int) -> Path:
    """An adapter as PEFT saves it, in float32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (n_out, n_in) in layout.items():
        for part, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
            values = 0.02 * rng.standard_normal(shape, np.float32)
            tensors[f"{PREFIX}{name}.lora_{part}.weight"] = values
    folder.mkdir(parents=True)
    save_file(tensors, folder / FILE, {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": ALPHA,
        "target_modules": sorted({name.rpartition(".")[2] for name in layout}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def factors(folder: Path, name: str) -> tuple[Array, Array]:
    """Factors of a module's update in float64, the first with the scale."""
    config = json.loads((folder / "adapter_config.json").read_text())
    with safe_open(folder / FILE, "np") as file:
        down, up = (
            file.get_tensor(f"{PREFIX}{name}.lora_{part}.weight").astype(np.float64)
            for part in "AB"
        )
    alpha = _matched(config.get("alpha_pattern"), name, config["lora_alpha"])
    rank = _matched(config.get("rank_pattern"), name, config["r"])
    return alpha / rank * up, down


def _matched(patterns: Mapping[str, float] | None, name: str, default: float) -> float:
    for pattern, value in (patterns or {}).items():
        if name.endswith(pattern.removeprefix("^")):
            return value
    return default


def weighted_sum(
    folders: Sequence[Path], weights: Sequence[float], name: str
) -> tuple[Array, Array]:
    """Factors of the weighted sum of the adapters' updates, side by side."""
    pairs = [factors(folder, name) for folder in folders]
    ups = [weight * up for weight, (up, _) in zip(weights, pairs, strict=True)]
    return np.hstack(ups), np.vstack([down for _, down in pairs])


def difference(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    """Norm of the difference of two updates, relative to the second one."""
    joined = np.hstack([one[0], -other[0]]), np.vstack([one[1], other[1]])
    return float(np.linalg.norm(values(*joined)) / np.linalg.norm(values(*other)))


def values(up: Array, down: Array) -> Array:
    """Singular values of the product of two factors."""
    left, right = np.linalg.qr(up, mode="r"), np.linalg.qr(down.T, mode="r")
    return np.asarray(np.linalg.svd(left @ right.T, compute_uv=False))
