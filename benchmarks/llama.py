"""Checkpoints with the shapes of Llama, close to each other like fine-tunes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

Array = np.ndarray[Any, np.dtype[Any]]
Layout = dict[str, tuple[int, ...]]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
N_LAYERS = 18
VOCABULARY = 32_000
BLOCK = 1 << 22  # random numbers drawn at a time
SAMPLE = 1 << 20  # elements of a tensor held against the oracle


def layout(
    hidden: int, *, vocabulary: int = VOCABULARY, n_layers: int = N_LAYERS
) -> Layout:
    """Names and shapes, in the order of the layers."""
    inner = math.ceil(hidden * 8 / 3 / 64) * 64
    shapes: Layout = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(n_layers):
        name = f"model.layers.{layer}"
        for part in "qkvo":
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (hidden, hidden)
        shapes[f"{name}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{name}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{name}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{name}.input_layernorm.weight"] = (hidden,)
        shapes[f"{name}.post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def n_parameters(shapes: Layout) -> int:
    """Elements of all tensors."""
    return sum(math.prod(shape) for shape in shapes.values())


def layout_of_size(parameters: float) -> Layout:
    """The layout whose number of parameters is nearest."""
    widths = range(64, 4096, 64)
    return min(
        (layout(width) for width in widths),
        key=lambda shapes: abs(n_parameters(shapes) - parameters),
    )


def make(
    folder: Path,
    shapes: Layout,
    *,
    member: int | None,
    n_shards: int,
    density: float = 1.0,
) -> Path:
    """A member: the base and its own small noise, in bfloat16 shards.

    None as the member makes the base. Density is the share of elements with noise.
    """
    folder.mkdir(parents=True)
    shards = _shards(shapes, n_shards)
    names: dict[str, str] = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        if len(shards) == 1:
            file = "model.safetensors"
        tensors = {name: _tensor(name, shapes, member, density) for name in shard}
        save_file(tensors, folder / file, {"format": "pt"})
        names |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = 2 * n_parameters(shapes)
        index_file = {"metadata": {"total_size": total}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))
    (folder / "config.json").write_text(json.dumps(_config(shapes), indent=2))
    return folder


def _shards(shapes: Layout, n_shards: int) -> list[list[str]]:
    """Names in shards of about one size."""
    share = n_parameters(shapes) / n_shards
    shards: list[list[str]] = [[] for _ in range(n_shards)]
    seen = 0
    for name, shape in shapes.items():
        shards[min(int(seen / share), n_shards - 1)].append(name)
        seen += math.prod(shape)
    return shards


def _tensor(
    name: str, shapes: Layout, member: int | None, density: float = 1.0
) -> Array:
    index = list(shapes).index(name)
    base = np.random.default_rng([index])
    noise = np.random.default_rng([index, 0 if member is None else member + 1])
    out = np.empty(math.prod(shapes[name]), BFLOAT16)
    for start in range(0, out.size, BLOCK):
        part = out[start : start + BLOCK]
        values = 0.02 * base.standard_normal(part.size, np.float32)
        if member is not None:
            change = 0.001 * noise.standard_normal(part.size, np.float32)
            if density < 1:
                change *= noise.random(part.size, np.float32) < density
            values += change
        part[:] = values
    return out.reshape(shapes[name])


def _config(shapes: Layout) -> dict[str, Any]:
    vocabulary, hidden = shapes["lm_head.weight"]
    inner = shapes["model.layers.0.mlp.gate_proj.weight"][0]
    n_layers = sum(name.endswith("q_proj.weight") for name in shapes)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": n_layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def check(out: Path, members: list[Path]) -> int:
    """Elements whose mean was found right, bit for bit, in a sample of the tensors.

    Raises
    ------
    ValueError
        If one is not what float64 gives, rounded once.
    """
    n_checked = 0
    for index, (name, found) in enumerate(_sampled(out)):
        if index % 7:
            continue
        stack = [
            tensor_of(member, name)[:SAMPLE].astype(np.float64) for member in members
        ]
        expected = nearest_bfloat16(sum(stack[1:], stack[0]) / len(stack))
        same = found[:SAMPLE].view(np.uint16) == expected.view(np.uint16)
        if not same.all():
            raise ValueError(f"{np.count_nonzero(~same)} elements of {name} are wrong")
        n_checked += same.size
    return n_checked


def write_one(path: Path, shapes: Layout, *, member: int) -> None:
    """A file of one tensor of any size, its random numbers repeated."""
    ((name, shape),) = shapes.items()
    n_bytes = 2 * math.prod(shape)
    entry = {"dtype": "BF16", "shape": shape, "data_offsets": [0, n_bytes]}
    header = json.dumps({name: entry}).encode()
    header += b" " * (-len(header) % 8)
    part = _tensor(name, {name: (BLOCK,)}, member).view(np.uint8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, n_bytes, part.nbytes):
            file.write(part[: n_bytes - start].data)


def _sampled(folder: Path) -> Iterator[tuple[str, Array]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                yield name, file.get_tensor(name).reshape(-1)


def tensor_of(folder: Path, name: str) -> Array:
    """One tensor of a member, flat."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            if name in file.keys():  # noqa: SIM118  # no mapping
                return np.asarray(file.get_tensor(name)).reshape(-1)
    raise KeyError(name)


def nearest_bfloat16(values: Array) -> Array:
    """Float64 rounded once, to the nearest, ties to even."""
    exponent = np.maximum(np.frexp(values)[1], -125)
    step = np.ldexp(1.0, exponent - 8)
    exact = np.rint(values / step) * step
    return np.asarray(exact.astype(np.float32).astype(BFLOAT16))
