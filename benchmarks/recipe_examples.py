"""Recipes in the shapes of mergekit's examples, and small random models for them.

An example has its members, whose paths are relative to a folder, and a recipe with
these paths. Its formula gives a tensor of the result in float64: a function of the
tensor's name and of the tensors of the members by path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING or __package__:  # a test imports it from the package
    from benchmarks import recipe_oracles as oracles
else:
    import recipe_oracles as oracles
import numpy as np

Array = oracles.Array
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


def _each(*paths: str) -> Callable[[str, Tensors], list[Array]]:
    return lambda name, tensors: [tensors[path][name] for path in paths]


def _linear(name: str, tensors: Tensors) -> Array:
    arrays = _each(CHAT, CODE, MATH)(name, tensors)
    return oracles.linear(arrays, [1.0, 0.3, 0.5])


LINEAR = f"""\
models:
  - model: {CHAT}
    parameters:
      weight: 1.0
  - model: {CODE}
    parameters:
      weight: 0.3
  - model: {MATH}
    parameters:
      weight: 0.5
merge_method: linear
dtype: float32
"""


def _even(name: str, tensors: Tensors) -> Array:
    return oracles.linear(_each(CHAT, CODE)(name, tensors), [1, 1])


EVEN = f"""\
models:
  - model: {CHAT}
    parameters:
      weight: 1.0
  - model: {CODE}
    parameters:
      weight: 1.0
merge_method: linear
dtype: float32
"""

ATTENTION, MLP = [0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0]


def _gradient_slerp(name: str, tensors: Tensors) -> Array:
    t = 0.5
    if "self_attn" in name:
        t = oracles.at_depth(ATTENTION, name, N_LAYERS)
    elif "mlp" in name:
        t = oracles.at_depth(MLP, name, N_LAYERS)
    first, second = _each(CHAT, CODE)(name, tensors)
    return oracles.slerp(first, second, t)


GRADIENT_SLERP = f"""\
slices:
  - sources:
      - model: {CHAT}
        layer_range: [0, {N_LAYERS}]
      - model: {CODE}
        layer_range: [0, {N_LAYERS}]
merge_method: slerp
base_model: {CHAT}
parameters:
  t:
    - filter: self_attn
      value: {ATTENTION}
    - filter: mlp
      value: {MLP}
    - value: 0.5 # all other tensors
dtype: float32
"""


def _ties(name: str, tensors: Tensors) -> Array:
    def at(*values: float) -> float:
        return oracles.at_depth(values, name, N_LAYERS)

    return oracles.ties(
        tensors[BASE][name],
        _each(CHAT, CODE, MATH)(name, tensors),
        [1.0, at(0, 0.3, 0.7, 1), 0.5 if "mlp" in name else 0],
        [at(1, 0.7, 0.1), 0.5, 0.33],
        normalize=True,
    )


TIES = f"""\
models:
  - model: {CHAT}
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: {CODE}
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: {MATH}
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: {BASE}
parameters:
  normalize: true
  int8_mask: true
dtype: float32
"""


def _sparse_sum(name: str, tensors: Tensors) -> Array:
    arrays = _each(CHAT, CODE)(name, tensors)
    return oracles.ties(
        tensors[BASE][name], arrays, [0.5, 0.5], [0.5, 0.5], normalize=False
    )


SPARSE_SUM = f"""\
models:
  - model: {BASE}
    # the base needs no parameters
  - model: {CHAT}
    parameters:
      density: 0.5
      weight: 0.5
  - model: {CODE}
    parameters:
      density: 0.5
      weight: 0.5
merge_method: ties
base_model: {BASE}
parameters:
  normalize: false
  int8_mask: true
dtype: float32
"""


def _stacked(name: str, tensors: Tensors) -> Array:
    layer = oracles.layer_of(name)
    if layer is None:
        return tensors[CODE if "model.norm" in name or "head" in name else CHAT][name]
    if layer < 3:
        return tensors[CHAT][name]
    return tensors[CODE][oracles.renumbered(name, layer - 1)]


STACKED = f"""\
slices:
  - sources:
    - model: {CHAT}
      layer_range: [0, 3]
  - sources:
    - model: {CODE}
      layer_range: [2, {N_LAYERS}]
merge_method: passthrough
dtype: float32
"""


def _shortened(name: str, tensors: Tensors) -> Array:
    return tensors[CHAT][name]


SHORTENED = f"""\
slices:
  - sources:
    - model: {CHAT}
      layer_range: [0, 3]
merge_method: passthrough
dtype: float32
"""


def _expanded(name: str, tensors: Tensors) -> Array:
    layer = oracles.layer_of(name)
    if layer is None:
        return tensors[CHAT][name]
    array = tensors[CHAT][oracles.renumbered(name, layer - (layer > 2))]
    is_zero = layer == 3 and ("o_proj" in name or "down_proj" in name)
    return 0 * array if is_zero else array


EXPANDED = f"""\
slices:
  - sources:
    - model: {CHAT}
      layer_range: [0, 3]
  - sources:
    - model: {CHAT}
      layer_range: [2, 3]
      parameters:
        scale:
          - filter: o_proj
            value: 0.0
          - filter: down_proj
            value: 0.0
          - value: 1.0
  - sources:
    - model: {CHAT}
      layer_range: [3, {N_LAYERS}]
merge_method: passthrough
dtype: float32
"""


def _slices(name: str, tensors: Tensors) -> Array:
    layer = oracles.layer_of(name)
    arrays = _each(CHAT, CODE)(name, tensors)
    if name in ("model.norm.weight", "lm_head.weight") or (layer or 0) > 1:
        weights = [0.25, oracles.at_depth([1.0, 3.0], f"x.h.{(layer or 2) - 2}.w", 3)]
        return oracles.linear(arrays, weights)
    return oracles.linear(arrays, [0.75, 0.25])


SLICES = f"""\
slices:
  - sources:
      - model: {CHAT}
        layer_range: [0, 2]
        parameters:
          weight: 0.75
      - model: {CODE}
        layer_range: [0, 2]
        parameters:
          weight: 0.25
  - sources:
      - model: {CHAT}
        layer_range: [2, {N_LAYERS}]
        parameters:
          weight: 0.25
      - model: {CODE}
        layer_range: [2, {N_LAYERS}]
    parameters:
      weight: [1.0, 3.0]
merge_method: linear
dtype: float32
"""


def _two_stages(name: str, tensors: Tensors) -> Array:
    first = _gradient_slerp(name, tensors)
    arrays = [first.astype(np.float32).astype(np.float64), tensors[MATH][name]]
    densities = [oracles.at_depth([1, 0.7, 0.1], name, N_LAYERS), 0.33]
    weights = [1.0, 0.5 if "mlp" in name else 0]
    return oracles.ties(tensors[BASE][name], arrays, weights, densities, normalize=True)


TWO_STAGES = f"""\
name: gradient-slerp
{GRADIENT_SLERP}---
models:
  - model: gradient-slerp
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: {MATH}
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: {BASE}
parameters:
  normalize: true
  int8_mask: true
dtype: float32
"""


def _three_stages(name: str, tensors: Tensors) -> Array:
    first = oracles.linear(_each(BASE, CHAT)(name, tensors), [0.5, 0.5])
    first = first.astype(np.float32).astype(np.float64)
    second = oracles.slerp(first, tensors[CODE][name], 0.5)
    arrays = [second.astype(np.float32).astype(np.float64), tensors[MATH][name]]
    return oracles.task_arithmetic(tensors[BASE][name], arrays, [0.6, 0.4], 0.7)


THREE_STAGES = f"""\
name: first-merge
merge_method: linear
models:
  - model: {BASE}
  - model: {CHAT}
parameters:
  weight: 0.5
dtype: float32
---
name: second-merge
merge_method: slerp
base_model: first-merge
models:
  - model: {CODE}
parameters:
  t: 0.5
dtype: float32
---
# the last merge has no name
merge_method: task_arithmetic
base_model: {BASE}
models:
  - model: second-merge
    parameters:
      weight: 0.6
  - model: {MATH}
    parameters:
      weight: 0.4
parameters:
  lambda: 0.7
dtype: float32
"""


def _model_stock(name: str, tensors: Tensors) -> Array:
    arrays = _each(CHAT, CODE, MATH)(name, tensors)
    return oracles.model_stock(tensors[BASE][name], arrays)


MODEL_STOCK = f"""\
models:
  - model: {BASE}
  - model: {CHAT}
  - model: {CODE}
  - model: {MATH}
merge_method: model_stock
base_model: {BASE}
dtype: float32
"""

ALL = (BASE, CHAT, CODE, MATH)
THREE, TWO = (CHAT, CODE, MATH), (CHAT, CODE)
EXAMPLES = {
    "linear": Example(LLAMA, THREE, LINEAR, _linear),
    "linear, Qwen2": Example(QWEN2, THREE, LINEAR, _linear),
    "linear, Gemma 2": Example(GEMMA2, THREE, LINEAR, _linear),
    "linear, Phi 3": Example(PHI3, TWO, EVEN, _even),
    "linear, BERT": Example(BERT, TWO, EVEN, _even),
    "linear, GPT-2": Example(GPT2, TWO, EVEN, _even),
    "linear, Whisper": Example(WHISPER, TWO, EVEN, _even, n_layers=2),
    "linear, T5": Example(T5, TWO, EVEN, _even, n_layers=2),
    "linear, Qwen2-VL": Example(QWEN2_VL, TWO, EVEN, _even),
    "gradient slerp": Example(LLAMA, TWO, GRADIENT_SLERP, _gradient_slerp),
    "gradient slerp, Qwen3": Example(QWEN3, TWO, GRADIENT_SLERP, _gradient_slerp),
    "ties": Example(LLAMA, ALL, TIES, _ties),
    "ties without normalization": Example(
        MISTRAL, (BASE, *TWO), SPARSE_SUM, _sparse_sum
    ),
    "model stock": Example(QWEN2, ALL, MODEL_STOCK, _model_stock),
    "stacked layers": Example(LLAMA, TWO, STACKED, _stacked, n_layers=6),
    "first layers, GPT-2": Example(GPT2, (CHAT,), SHORTENED, _shortened, n_layers=3),
    "expanded blocks": Example(LLAMA, (CHAT,), EXPANDED, _expanded, n_layers=6),
    "slices of several models": Example(MISTRAL, TWO, SLICES, _slices),
    "two stages": Example(LLAMA, ALL, TWO_STAGES, _two_stages),
    "three stages": Example(MISTRAL, ALL, THREE_STAGES, _three_stages),
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


def method_example(
    method: str, base: str | None, *paths: str, **shared: Any
) -> Example:
    """Example of a merge method, for a comparison of the two tools."""
    of_models = {key: shared.pop(key) for key in PER_MODEL if key in shared}
    models = [{"model": path, "parameters": of_models} for path in paths]
    entries: dict[str, Any] = {
        "merge_method": method,
        "models": models,
        "dtype": "float32",
    }
    entries |= {"parameters": shared} if shared else {}
    entries |= {"base_model": base} if base else {}
    members = dict.fromkeys((*([base] if base else []), *paths))
    return Example(QWEN2, tuple(members), json.dumps(entries), None)


PER_MODEL = ("weight", "density", "gamma", "epsilon")
METHODS = {
    "task_arithmetic": method_example(
        "task_arithmetic", BASE, *THREE, weight=0.4, normalize=True
    ),
    "dare_linear": method_example("dare_linear", BASE, *TWO, weight=0.5, density=1.0),
    "dare_ties": method_example("dare_ties", BASE, *TWO, weight=0.5, density=1.0),
    "della": method_example("della", BASE, *TWO, weight=0.5, density=1.0),
    "della_linear": method_example("della_linear", BASE, *TWO, weight=1.0, density=1.0),
    "breadcrumbs": method_example(
        "breadcrumbs", BASE, *THREE, weight=0.4, density=0.8, gamma=0.05
    ),
    "breadcrumbs_ties": method_example(
        "breadcrumbs_ties", BASE, *THREE, weight=0.4, density=0.8, gamma=0.05
    ),
    "sce": method_example("sce", BASE, *THREE, select_topk=0.5),
    "ram": method_example("ram", BASE, *THREE, epsilon=1e-3),
    "ramplus_tl": method_example("ramplus_tl", BASE, *THREE, r=0.2, alpha=0.3),
    "model_stock by row": method_example("model_stock", BASE, *THREE, filter_wise=True),
    "nuslerp": method_example("nuslerp", None, *TWO, weight=0.5),
    "nuslerp by row": method_example(
        "nuslerp", None, *TWO, weight=0.5, nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "nuslerp of task vectors": method_example("nuslerp", BASE, *TWO, weight=0.5),
    "multislerp": method_example("multislerp", None, *THREE, weight=0.5),
    "multislerp of task vectors": method_example(
        "multislerp", BASE, *THREE, weight=1.0
    ),
    "karcher": method_example("karcher", None, *THREE, max_iter=100, tol=1e-9),
    "nearswap": method_example("nearswap", CHAT, CHAT, CODE, t=0.01),
    "arcee_fusion": method_example("arcee_fusion", CHAT, CHAT, CODE),
}
