"""Recipes in the shapes of mergekit's examples.

An example has its members, whose paths are relative to a folder, and a recipe with
these paths. Its formula gives a tensor of the result in float64: a function of the
tensor's name and of the tensors of the members by path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING or __package__:  # a test imports it from the package
    from benchmarks import recipe_models as models
    from benchmarks import recipe_oracles as oracles
else:
    import recipe_models as models
    import recipe_oracles as oracles

Array = oracles.Array


def _each(*paths: str) -> Callable[[str, models.Tensors], list[Array]]:
    return lambda name, tensors: [tensors[path][name] for path in paths]


def _linear(name: str, tensors: models.Tensors) -> Array:
    arrays = _each(models.CHAT, models.CODE, models.MATH)(name, tensors)
    return oracles.linear(arrays, [1.0, 0.3, 0.5])


LINEAR = f"""\
models:
  - model: {models.CHAT}
    parameters:
      weight: 1.0
  - model: {models.CODE}
    parameters:
      weight: 0.3
  - model: {models.MATH}
    parameters:
      weight: 0.5
merge_method: linear
dtype: float32
"""


def _even(name: str, tensors: models.Tensors) -> Array:
    return oracles.linear(_each(models.CHAT, models.CODE)(name, tensors), [1, 1])


EVEN = f"""\
models:
  - model: {models.CHAT}
    parameters:
      weight: 1.0
  - model: {models.CODE}
    parameters:
      weight: 1.0
merge_method: linear
dtype: float32
"""

ATTENTION, MLP = [0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0]


def _gradient_slerp(name: str, tensors: models.Tensors) -> Array:
    t = 0.5
    if "self_attn" in name:
        t = oracles.at_depth(ATTENTION, name, models.N_LAYERS)
    elif "mlp" in name:
        t = oracles.at_depth(MLP, name, models.N_LAYERS)
    first, second = _each(models.CHAT, models.CODE)(name, tensors)
    return oracles.slerp(first, second, t)


GRADIENT_SLERP = f"""\
slices:
  - sources:
      - model: {models.CHAT}
        layer_range: [0, {models.N_LAYERS}]
      - model: {models.CODE}
        layer_range: [0, {models.N_LAYERS}]
merge_method: slerp
base_model: {models.CHAT}
parameters:
  t:
    - filter: self_attn
      value: {ATTENTION}
    - filter: mlp
      value: {MLP}
    - value: 0.5 # all other tensors
dtype: float32
"""


def _ties(name: str, tensors: models.Tensors) -> Array:
    def at(*values: float) -> float:
        return oracles.at_depth(values, name, models.N_LAYERS)

    return oracles.ties(
        tensors[models.BASE][name],
        _each(models.CHAT, models.CODE, models.MATH)(name, tensors),
        [1.0, at(0, 0.3, 0.7, 1), 0.5 if "mlp" in name else 0],
        [at(1, 0.7, 0.1), 0.5, 0.33],
        normalize=True,
    )


TIES = f"""\
models:
  - model: {models.CHAT}
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: {models.CODE}
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: {models.MATH}
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: {models.BASE}
parameters:
  normalize: true
  int8_mask: true
dtype: float32
"""


def _sparse_sum(name: str, tensors: models.Tensors) -> Array:
    arrays = _each(models.CHAT, models.CODE)(name, tensors)
    return oracles.ties(
        tensors[models.BASE][name], arrays, [0.5, 0.5], [0.5, 0.5], normalize=False
    )


SPARSE_SUM = f"""\
models:
  - model: {models.BASE}
    # the base needs no parameters
  - model: {models.CHAT}
    parameters:
      density: 0.5
      weight: 0.5
  - model: {models.CODE}
    parameters:
      density: 0.5
      weight: 0.5
merge_method: ties
base_model: {models.BASE}
parameters:
  normalize: false
  int8_mask: true
dtype: float32
"""


def _stacked(name: str, tensors: models.Tensors) -> Array:
    layer = oracles.layer_of(name)
    if layer is None:
        return tensors[
            models.CODE if "model.norm" in name or "head" in name else models.CHAT
        ][name]
    if layer < 3:
        return tensors[models.CHAT][name]
    return tensors[models.CODE][oracles.renumbered(name, layer - 1)]


STACKED = f"""\
slices:
  - sources:
    - model: {models.CHAT}
      layer_range: [0, 3]
  - sources:
    - model: {models.CODE}
      layer_range: [2, {models.N_LAYERS}]
merge_method: passthrough
dtype: float32
"""


def _shortened(name: str, tensors: models.Tensors) -> Array:
    return tensors[models.CHAT][name]


SHORTENED = f"""\
slices:
  - sources:
    - model: {models.CHAT}
      layer_range: [0, 3]
merge_method: passthrough
dtype: float32
"""


def _expanded(name: str, tensors: models.Tensors) -> Array:
    layer = oracles.layer_of(name)
    if layer is None:
        return tensors[models.CHAT][name]
    array = tensors[models.CHAT][oracles.renumbered(name, layer - (layer > 2))]
    is_zero = layer == 3 and ("o_proj" in name or "down_proj" in name)
    return 0 * array if is_zero else array


EXPANDED = f"""\
slices:
  - sources:
    - model: {models.CHAT}
      layer_range: [0, 3]
  - sources:
    - model: {models.CHAT}
      layer_range: [2, 3]
      parameters:
        scale:
          - filter: o_proj
            value: 0.0
          - filter: down_proj
            value: 0.0
          - value: 1.0
  - sources:
    - model: {models.CHAT}
      layer_range: [3, {models.N_LAYERS}]
merge_method: passthrough
dtype: float32
"""


def _slices(name: str, tensors: models.Tensors) -> Array:
    layer = oracles.layer_of(name)
    arrays = _each(models.CHAT, models.CODE)(name, tensors)
    if name in ("model.norm.weight", "lm_head.weight") or (layer or 0) > 1:
        weights = [0.25, oracles.at_depth([1.0, 3.0], f"x.h.{(layer or 2) - 2}.w", 3)]
        return oracles.linear(arrays, weights)
    return oracles.linear(arrays, [0.75, 0.25])


SLICES = f"""\
slices:
  - sources:
      - model: {models.CHAT}
        layer_range: [0, 2]
        parameters:
          weight: 0.75
      - model: {models.CODE}
        layer_range: [0, 2]
        parameters:
          weight: 0.25
  - sources:
      - model: {models.CHAT}
        layer_range: [2, {models.N_LAYERS}]
        parameters:
          weight: 0.25
      - model: {models.CODE}
        layer_range: [2, {models.N_LAYERS}]
    parameters:
      weight: [1.0, 3.0]
merge_method: linear
dtype: float32
"""


def _two_stages(name: str, tensors: models.Tensors) -> Array:
    first = _gradient_slerp(name, tensors)
    arrays = [first.astype(np.float32).astype(np.float64), tensors[models.MATH][name]]
    densities = [oracles.at_depth([1, 0.7, 0.1], name, models.N_LAYERS), 0.33]
    weights = [1.0, 0.5 if "mlp" in name else 0]
    return oracles.ties(
        tensors[models.BASE][name], arrays, weights, densities, normalize=True
    )


TWO_STAGES = f"""\
name: gradient-slerp
{GRADIENT_SLERP}---
models:
  - model: gradient-slerp
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: {models.MATH}
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: {models.BASE}
parameters:
  normalize: true
  int8_mask: true
dtype: float32
"""


def _three_stages(name: str, tensors: models.Tensors) -> Array:
    first = oracles.linear(_each(models.BASE, models.CHAT)(name, tensors), [0.5, 0.5])
    first = first.astype(np.float32).astype(np.float64)
    second = oracles.slerp(first, tensors[models.CODE][name], 0.5)
    arrays = [second.astype(np.float32).astype(np.float64), tensors[models.MATH][name]]
    return oracles.task_arithmetic(tensors[models.BASE][name], arrays, [0.6, 0.4], 0.7)


THREE_STAGES = f"""\
name: first-merge
merge_method: linear
models:
  - model: {models.BASE}
  - model: {models.CHAT}
parameters:
  weight: 0.5
dtype: float32
---
name: second-merge
merge_method: slerp
base_model: first-merge
models:
  - model: {models.CODE}
parameters:
  t: 0.5
dtype: float32
---
# the last merge has no name
merge_method: task_arithmetic
base_model: {models.BASE}
models:
  - model: second-merge
    parameters:
      weight: 0.6
  - model: {models.MATH}
    parameters:
      weight: 0.4
parameters:
  lambda: 0.7
dtype: float32
"""


def _model_stock(name: str, tensors: models.Tensors) -> Array:
    arrays = _each(models.CHAT, models.CODE, models.MATH)(name, tensors)
    return oracles.model_stock(tensors[models.BASE][name], arrays)


MODEL_STOCK = f"""\
models:
  - model: {models.BASE}
  - model: {models.CHAT}
  - model: {models.CODE}
  - model: {models.MATH}
merge_method: model_stock
base_model: {models.BASE}
dtype: float32
"""

ALL = (models.BASE, models.CHAT, models.CODE, models.MATH)
THREE, TWO = (models.CHAT, models.CODE, models.MATH), (models.CHAT, models.CODE)
EXAMPLES = {
    "linear": models.Example(models.LLAMA, THREE, LINEAR, _linear),
    "linear, Qwen2": models.Example(models.QWEN2, THREE, LINEAR, _linear),
    "linear, Gemma 2": models.Example(models.GEMMA2, THREE, LINEAR, _linear),
    "linear, Phi 3": models.Example(models.PHI3, TWO, EVEN, _even),
    "linear, BERT": models.Example(models.BERT, TWO, EVEN, _even),
    "linear, GPT-2": models.Example(models.GPT2, TWO, EVEN, _even),
    "linear, Whisper": models.Example(models.WHISPER, TWO, EVEN, _even, n_layers=2),
    "linear, T5": models.Example(models.T5, TWO, EVEN, _even, n_layers=2),
    "linear, Qwen2-VL": models.Example(models.QWEN2_VL, TWO, EVEN, _even),
    "gradient slerp": models.Example(
        models.LLAMA, TWO, GRADIENT_SLERP, _gradient_slerp
    ),
    "gradient slerp, Qwen3": models.Example(
        models.QWEN3, TWO, GRADIENT_SLERP, _gradient_slerp
    ),
    "ties": models.Example(models.LLAMA, ALL, TIES, _ties),
    "ties without normalization": models.Example(
        models.MISTRAL, (models.BASE, *TWO), SPARSE_SUM, _sparse_sum
    ),
    "model stock": models.Example(models.QWEN2, ALL, MODEL_STOCK, _model_stock),
    "stacked layers": models.Example(models.LLAMA, TWO, STACKED, _stacked, n_layers=6),
    "first layers, GPT-2": models.Example(
        models.GPT2, (models.CHAT,), SHORTENED, _shortened, n_layers=3
    ),
    "expanded blocks": models.Example(
        models.LLAMA, (models.CHAT,), EXPANDED, _expanded, n_layers=6
    ),
    "slices of several models": models.Example(models.MISTRAL, TWO, SLICES, _slices),
    "two stages": models.Example(models.LLAMA, ALL, TWO_STAGES, _two_stages),
    "three stages": models.Example(models.MISTRAL, ALL, THREE_STAGES, _three_stages),
}
for _name, _dtype in (
    ("linear", "float16"),
    ("linear", "bfloat16"),
    ("gradient slerp", "float16"),
    ("ties", "bfloat16"),
    ("stacked layers", "float16"),
):
    _example = EXAMPLES[_name]
    _recipe = _example.recipe.replace("float32", _dtype)
    EXAMPLES[f"{_name}, {_dtype}"] = _example._replace(recipe=_recipe, dtype=_dtype)
