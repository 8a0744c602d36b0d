"""Bases and adapters in the files of PEFT, with the sums by its formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints.building import save

Tensors = dict[str, Any]


def save_base(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """Write a Hugging Face directory."""
    save(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def save_adapter(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """Write a directory of PEFT; names lack the prefix of its wrapper."""
    named = {f"base_model.model.{name}": array for name, array in tensors.items()}
    save(folder / "adapter_model.safetensors", named)
    options = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, **config}
    (folder / "adapter_config.json").write_text(json.dumps(options))
    return folder


def factors(
    rng: np.random.Generator, module: str, shape: tuple[int, ...], rank: int = 2
) -> Tensors:
    """Factors of a module with ``(n_outputs, n_inputs, *kernel)``."""
    n_outputs, n_inputs, *kernel = shape
    return {
        f"{module}.lora_A.weight": rng.normal(size=(rank, n_inputs, *kernel)),
        f"{module}.lora_B.weight": rng.normal(
            size=(n_outputs, rank, *[1] * len(kernel))
        ),
    }


def product(tensors: Tensors, module: str, scale: float = 1.5) -> Any:
    """Update of a module, ``scale * b @ a``."""
    a = tensors[f"{module}.lora_A.weight"].astype(np.float64)
    b = tensors[f"{module}.lora_B.weight"].astype(np.float64)
    matrix = scale * b.reshape(b.shape[:2]) @ a.reshape(len(a), -1)
    return matrix.reshape(len(b), *a.shape[1:])
