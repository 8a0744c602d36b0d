"""Recipes of `bench_recipes`: a YAML document each, and its tensors in float64.

Members are those of `llama`: a base and three that differ from it a little, in
bfloat16. Each recipe takes their paths, the base first, and the number of layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama
import recipe_oracles as oracles

Array = oracles.Array
Tensor = Callable[[int, str], Array]  # of a member, by its number and name
ATTENTION, MLP = [0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0]
DENSITIES, WEIGHTS = [1, 0.7, 0.1], [0, 0.3, 0.7, 1]


class Workload(NamedTuple):
    """A recipe that is measured.

    Parameters
    ----------
    documents : callable
        Documents of the recipe, from the paths of the members and the number of layers.
    formula : callable
        Tensor of the result in float64, from its name, a function that reads tensors
        of the members, and the number of layers.
    members : tuple of int
        Members that are read; 0 is the base.
    has_vocabularies : bool
        Whether the members have tokenizers, of different vocabularies.
    """

    documents: Callable[[Sequence[str], int], list[dict[str, Any]]]
    formula: Callable[[str, Tensor, int], Array]
    members: tuple[int, ...]
    has_vocabularies: bool = False


def _model(path: str, **parameters: Any) -> dict[str, Any]:
    return {"model": path} | ({"parameters": parameters} if parameters else {})


def _merge(method: str, **entries: Any) -> dict[str, Any]:
    return {"merge_method": method, "dtype": "bfloat16", **entries}


def _linear(paths: Sequence[str], n_layers: int) -> list[dict[str, Any]]:
    weights = [1.0, 0.3, 0.5]
    pairs = zip(paths[1:], weights, strict=True)
    return [_merge("linear", models=[_model(p, weight=w) for p, w in pairs])]


def _linear_tensor(name: str, tensor: Tensor, n_layers: int) -> Array:
    return oracles.linear([tensor(i, name) for i in (1, 2, 3)], [1.0, 0.3, 0.5])


def _slerp(paths: Sequence[str], n_layers: int) -> list[dict[str, Any]]:
    sources = [{"model": p, "layer_range": [0, n_layers]} for p in paths[1:3]]
    t = [
        {"filter": "self_attn", "value": ATTENTION},
        {"filter": "mlp", "value": MLP},
        {"value": 0.5},
    ]
    entries = {"base_model": paths[1], "parameters": {"t": t}}
    return [_merge("slerp", slices=[{"sources": sources}], **entries)]


def _slerp_tensor(name: str, tensor: Tensor, n_layers: int) -> Array:
    values = ATTENTION if "self_attn" in name else MLP if "mlp" in name else [0.5]
    t = oracles.at_depth(values, name, n_layers) if len(values) > 1 else 0.5
    return oracles.slerp(tensor(1, name), tensor(2, name), t)


def _ties(paths: Sequence[str], n_layers: int) -> list[dict[str, Any]]:
    models = [
        _model(paths[1], density=DENSITIES, weight=1.0),
        _model(paths[2], density=0.5, weight=WEIGHTS),
        _model(paths[3], density=0.33, weight=0.5),
    ]
    return [_merge("ties", models=models, base_model=paths[0])]


def _ties_tensor(name: str, tensor: Tensor, n_layers: int) -> Array:
    densities = [oracles.at_depth(DENSITIES, name, n_layers), 0.5, 0.33]
    weights = [1.0, oracles.at_depth(WEIGHTS, name, n_layers), 0.5]
    members = [tensor(i, name) for i in (1, 2, 3)]
    return oracles.ties(tensor(0, name), members, weights, densities, normalize=True)


def _cuts(n_layers: int) -> tuple[int, int]:
    """End of the layers of one model, and begin of those of the other."""
    return n_layers * 3 // 5, n_layers // 2


def _passthrough(paths: Sequence[str], n_layers: int) -> list[dict[str, Any]]:
    end, begin = _cuts(n_layers)
    ranges = [(paths[1], [0, end]), (paths[2], [begin, n_layers])]
    slices = [{"sources": [{"model": p, "layer_range": r}]} for p, r in ranges]
    return [_merge("passthrough", slices=slices)]


def _passthrough_tensor(name: str, tensor: Tensor, n_layers: int) -> Array:
    (end, begin), layer = _cuts(n_layers), oracles.layer_of(name)
    if layer is None:
        return tensor(1 if "embed" in name else 2, name)
    if layer < end:
        return tensor(1, name)
    return tensor(2, oracles.renumbered(name, layer - end + begin))


def _two_stages(paths: Sequence[str], n_layers: int) -> list[dict[str, Any]]:
    (first,) = _slerp(paths, n_layers)
    models = [
        _model("first", density=DENSITIES, weight=1.0),
        _model(paths[3], density=0.33, weight=0.5),
    ]
    second = _merge("ties", models=models, base_model=paths[0])
    return [{"name": "first", **first}, second]


def _two_stages_tensor(name: str, tensor: Tensor, n_layers: int) -> Array:
    first = llama.nearest_bfloat16(_slerp_tensor(name, tensor, n_layers))
    densities = [oracles.at_depth(DENSITIES, name, n_layers), 0.33]
    members = [first.astype(float), tensor(3, name)]
    base = tensor(0, name)
    return oracles.ties(base, members, [1.0, 0.5], densities, normalize=True)


def _union(paths: Sequence[str], n_layers: int) -> list[dict[str, Any]]:
    models = [_model(path, weight=0.5) for path in paths[1:3]]
    return [
        _merge("linear", models=models, base_model=paths[1], tokenizer_source="union")
    ]


def _union_tensor(name: str, tensor: Tensor, n_layers: int) -> Array:
    # Rows of the embeddings are those of the result's tokens, see `bench_recipes`.
    return oracles.linear([tensor(1, name), tensor(2, name)], [0.5, 0.5])


WORKLOADS = {
    "linear": Workload(_linear, _linear_tensor, (1, 2, 3)),
    "slerp": Workload(_slerp, _slerp_tensor, (1, 2)),
    "ties": Workload(_ties, _ties_tensor, (0, 1, 2, 3)),
    "passthrough": Workload(_passthrough, _passthrough_tensor, (1, 2)),
    "two stages": Workload(_two_stages, _two_stages_tensor, (0, 1, 2, 3)),
    "tokenizer union": Workload(_union, _union_tensor, (1, 2), has_vocabularies=True),
}


def recipe(workload: Workload, paths: Sequence[Path], n_layers: int) -> str:
    """Documents of a recipe as YAML, of which JSON is a part."""
    documents = workload.documents([str(path) for path in paths], n_layers)
    return "\n---\n".join(json.dumps(document, indent=1) for document in documents)


def tokens(member: int, n_tokens: int) -> Mapping[str, int]:
    """Vocabulary of a member, a part of which no other member has."""
    n_shared = n_tokens - n_tokens // 16
    words = [f"w{i}" for i in range(n_shared)]
    words += [f"m{member}_{i}" for i in range(n_shared, n_tokens)]
    words[0] = "<unk>"
    return {word: index for index, word in enumerate(words)}


def write_tokenizer(folder: Path, vocabulary: Mapping[str, int]) -> None:
    """Write a tokenizer of whole words, as transformers loads it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel(dict(vocabulary), unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
