"""Adapters of PEFT and kohya for tests, and the dense updates that files stand for."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64

MODULES = {"model.layers.0.q_proj": (7, 6), "model.layers.1.q_proj": (5, 6)}
PREFIX = "base_model.model."


def factors(
    seed: int, shapes: dict[str, tuple[int, int]] | None = None, rank: int = 2
) -> dict[str, tuple[Array, Array]]:
    """Random factors of each module."""
    rng = np.random.default_rng(seed)
    return {
        module: (
            rng.standard_normal((rank, n_in)).astype(np.float32),
            rng.standard_normal((n_out, rank)).astype(np.float32),
        )
        for module, (n_out, n_in) in (shapes or MODULES).items()
    }


def save_peft(
    folder: Path,
    modules: dict[str, tuple[Array, Array]],
    more: dict[str, Array] | None = None,
    **config: Any,
) -> Path:
    """Write an adapter as PEFT does; the rank is that of the first module."""
    folder.mkdir()
    tensors = dict(more or {})
    for module, (a, b) in modules.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
    save_file(tensors, folder / "adapter_model.safetensors")
    rank = next((len(a) for a, _ in modules.values()), 2)
    options = {"peft_type": "LORA", "r": rank, "lora_alpha": 3, "target_modules": ["q"]}
    text = json.dumps(options | config)
    (folder / "adapter_config.json").write_text(text)
    return folder


def save_kohya(
    path: Path, modules: dict[str, tuple[Array, Array]], alpha: float | None = 1.0
) -> Path:
    """Write an adapter as sd-scripts does."""
    tensors = {}
    for module, (a, b) in modules.items():
        tensors[f"{module}.lora_down.weight"] = a
        tensors[f"{module}.lora_up.weight"] = b
        if alpha is not None:
            tensors[f"{module}.alpha"] = np.array(alpha, np.float32)
    save_file(tensors, path)
    return path


def peft_updates(folder: Path) -> dict[str, Float64]:
    """Dense update of each module, as PEFT 0.21 computes it for linear layers.

    ``LoraLayer.update_layer`` and ``get_pattern_key``: the scale is alpha / r, or with
    rslora alpha / sqrt(r), each by the first pattern that matches the end of the name.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    updates = {}
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        b = tensors[name.replace("lora_A", "lora_B")]
        rank = _by_pattern(config, "rank_pattern", module, config["r"])
        assert rank == len(a) == b.shape[1]
        alpha = _by_pattern(config, "alpha_pattern", module, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        updates[module] = scale * (b.astype(float) @ a.astype(float))
    return updates


def _by_pattern(
    config: dict[str, Any], pattern: str, module: str, default: float
) -> float:
    for key, value in config.get(pattern, {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return float(default)


def kohya_updates(path: Path) -> dict[str, Float64]:
    """Dense update of each module, as sd-scripts and LyCORIS compute it.

    alpha / rank * up @ down, where a missing alpha or 0 counts as the rank; kernels of
    convolutions are flat.
    """
    tensors = load_file(path)
    updates = {}
    for name in tensors:
        if not name.endswith(".lora_down.weight"):
            continue
        module = name.removesuffix(".lora_down.weight")
        down, up = tensors[name], tensors[f"{module}.lora_up.weight"]
        rank = len(down)
        alpha = float(tensors.get(f"{module}.alpha", np.array(0.0))) or rank
        flat = down.reshape(rank, -1).astype(float)
        updates[module] = (
            alpha / rank * (up.reshape(len(up), rank).astype(float) @ flat)
        )
    return updates
