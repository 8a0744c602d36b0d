"""Recipes in mergekit's format, carried out."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import plan_recipe, read_recipes, write

LAYERS = 3


def write_model(folder: Path, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = ["embed.weight", "norm.weight"]
    names += [f"layers.{i}.{part}.weight" for i in range(LAYERS) for part in "qk"]
    tensors = {n: rng.standard_normal((4, 4)).astype(np.float32) for n in names}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return tensors


def test_gradients_and_filters_give_each_layer_its_weights(tmp_path: Path) -> None:
    a, b = (write_model(tmp_path / name, i) for i, name in enumerate("ab"))
    (tmp_path / "recipe.yml").write_text(
        f"""\
models:
  - model: {tmp_path}/a
    parameters:
      weight: 1.0
  - model: {tmp_path}/b
    parameters:
      weight:
        - filter: layers.1.q
          value: 3
        - value: [0, 1]
merge_method: linear
dtype: float32
"""
    )
    (recipe,) = read_recipes(tmp_path / "recipe.yml")
    write(plan_recipe(recipe, tmp_path / "out"))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    weights = {"layers.0": 0.0, "layers.1.k": 0.5, "layers.1.q": 3.0, "layers.2": 1.0}
    for name, tensor in merged.items():
        w = next((w for key, w in weights.items() if name.startswith(key)), 0.0)
        exact = (a[name].astype(float) + w * b[name].astype(float)) / (1 + w)
        np.testing.assert_array_equal(tensor, exact.astype(np.float32))
