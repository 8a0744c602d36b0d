"""Configurations of models whose layers are chosen from other models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ensembles.checkpoints.compatibility.grouping import listed

Config = dict[str, Any]
# Keys of the number of layers.
COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "nlayers"),
    *("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"),
)
# Keys of lists with an entry for each layer; others of the same length, such as
# eos_token_id or architectures, are no property of layers.
PER_LAYER = re.compile(
    r"(?!.*(?:token|arch|label|factor|section|lang)).*(?:layer|block|pattern|type|head"
    r"|intermediate|window|rope|freq|sparsity|multiplier|moe|mlp|att|kv|ffn|expert).*"
)
# Keys of lists of layer numbers.
NUMBERS = {
    *("mlp_only_layers", "cross_attention_layers", "moe_layers", "full_attn_idxs"),
    *("attn_layer_indices", "global_attn_indexes", "fullatt_block_indexes"),
    *("deepstack_visual_indexes", "hybrid_layer_ids", "dense_layers"),
}


def _every(config: Config, key: str, number: int) -> bool:
    return bool((number + 1) % config[key] == 0)


# Keys from which the kind of a layer is computed by its number: the function says
# whether a layer is special; the last entry says what it is.
BY_NUMBER: dict[str, tuple[Callable[[Config, int], bool], str]] = {
    "sliding_window_pattern": (
        lambda config, number: _every(config, "sliding_window_pattern", number),
        "full_attention",
    ),
    "full_attention_interval": (
        lambda config, number: _every(config, "full_attention_interval", number),
        "full_attention",
    ),
    "decoder_sparse_step": (
        lambda config, number: _every(config, "decoder_sparse_step", number),
        "experts",
    ),
    "interleave_moe_layer_step": (
        lambda config, number: _every(config, "interleave_moe_layer_step", number),
        "experts",
    ),
    "no_rope_layer_interval": (
        lambda config, number: _every(config, "no_rope_layer_interval", number),
        "no rotary embedding",
    ),
    "moe_layer_freq": (
        lambda config, number: number % config["moe_layer_freq"] == 0,
        "experts",
    ),
    "first_k_dense_replace": (
        lambda config, number: number >= config["first_k_dense_replace"],
        "experts",
    ),
    "global_attn_every_n_layers": (
        lambda config, number: number % config["global_attn_every_n_layers"] == 0,
        "global attention",
    ),
    "attn_layer_period": (
        lambda config, number: (
            number % config["attn_layer_period"] == config.get("attn_layer_offset", 0)
        ),
        "attention",
    ),
    "expert_layer_period": (
        lambda config, number: (
            number % config["expert_layer_period"]
            == config.get("expert_layer_offset", 0)
        ),
        "experts",
    ),
    "num_kv_shared_layers": (
        lambda config, number: (
            number >= _count(config) - config["num_kv_shared_layers"]
        ),
        "shared keys and values",
    ),
}
# Lists that replace such a key where they are present.
REPLACED_BY = {
    "sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "interleave_moe_layer_step": "moe_layers",
    "no_rope_layer_interval": "no_rope_layers",
}
# Families whose layers alternate by default, without a key in older files.
ALTERNATING = {
    **{"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4},
}


class LayerOrigin(NamedTuple):
    """Origin of a layer: the configuration of its model, and its number there.

    Parameters
    ----------
    model : str
        Name of the model, for messages.
    config : dict
        Configuration of the model, or of the part of it with these layers.
    number : int
        Number of the layer in the model.
    """

    model: str
    config: Config
    number: int


class RewrittenConfig(NamedTuple):
    """Configuration of a result with other layers.

    Parameters
    ----------
    config : dict
        Content of ``config.json``.
    notes : list of str
        Messages about entries that were changed.
    problems : list of str
        Reasons why no configuration describes the layers.
    """

    config: Config
    notes: list[str]
    problems: list[str]


def part_of(config: Config, stack: str, n_layers: int) -> list[tuple[str, ...]]:
    """Parts of a configuration that may describe a stack of layers.

    Parameters
    ----------
    config : dict
        Content of ``config.json``.
    stack : str
        Name of the module with the layers, such as ``model.layers``.
    n_layers : int
        Number of its layers.

    Returns
    -------
    list of tuple of str
        Keys that lead to the number of layers, such as
        ``("text_config", "num_hidden_layers")``. If several fit, the ones that name the
        same part of the model as ``stack``.
    """
    paths = [path for path, value in _counts(config, ()) if value == n_layers]
    for words in (("decoder",), ("encoder",), ("vis", "image"), ("audio",)):
        if any(word in stack for word in words):
            named = [p for p in paths if any(w in ".".join(p) for w in words)]
            if "encoder" in words and not named and config.get("is_encoder_decoder"):
                named = [p for p in paths if "decoder" not in ".".join(p)]
            return named or paths
    plain = [
        path
        for path in paths
        if not re.search("vis|image|audio|coder", ".".join(path[:-1]))
    ]
    return plain or paths


def rewritten(
    config: Config, stack: str, n_layers: int, origins: Sequence[LayerOrigin]
) -> RewrittenConfig:
    """Configuration of a model with other layers in one of its stacks.

    Parameters
    ----------
    config : dict
        Content of ``config.json`` of the model that the result is like.
    stack : str
        Name of the module with the layers.
    n_layers : int
        Number of its layers in this model.
    origins : sequence of LayerOrigin
        Origin of each layer of the result, with whole configurations.

    Returns
    -------
    RewrittenConfig
    """
    paths = part_of(config, stack, n_layers)
    if not paths or len({path[:-1] for path in paths}) > 1:
        shown = {".".join(path): value for path, value in _counts(config, ())}
        return RewrittenConfig(
            config,
            [],
            [
                f"config.json must have one number of layers that is {n_layers}, as "
                f"many as {stack} has layers, found {shown or 'none'}; correct it"
            ],
        )
    folder = paths[0][:-1]
    own = [o._replace(config=_at(o.config, folder)) for o in origins]
    part = dict(_at(config, folder))
    part |= {path[-1]: len(origins) for path in paths}
    changed: list[str] = []
    for key, value in _lists(part, n_layers, own).items():
        if value != part.get(key):
            changed.append(".".join((*folder, key)))
            part[key] = value
    problems = [*_differing_kinds(part, own)]
    notes = []
    if changed:
        notes.append(
            f"{listed(changed)} of config.json {'is' if len(changed) == 1 else 'are'} "
            "made from the entries of the layers' models"
        )
    if part.get("scale_attn_by_inverse_layer_idx"):
        problems.append(
            "scale_attn_by_inverse_layer_idx of config.json scales a layer by its "
            "number, which the result changes"
        )
    return RewrittenConfig(_replaced(config, folder, part), notes, problems)


def _counts(config: Config, path: tuple[str, ...]) -> Iterator[tuple[Any, int]]:
    """Numbers of layers in a configuration and the objects in it, with their keys."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _counts(value, (*path, key))
        elif key in COUNTS and isinstance(value, int):
            yield (*path, key), value


def _count(config: Config) -> int:
    return next(value for _, value in _counts(config, ()))


def _at(config: Config, folder: Sequence[str]) -> Config:
    for key in folder:
        inner = config.get(key)
        config = inner if isinstance(inner, dict) else {}
    return config


def _replaced(config: Config, folder: Sequence[str], part: Config) -> Config:
    if not folder:
        return part
    inner = _replaced(config[folder[0]], folder[1:], part)
    return {**config, folder[0]: inner}


def _lists(
    part: Config, n_layers: int, origins: Sequence[LayerOrigin]
) -> Mapping[str, Any]:
    """New values of entries with a value for each layer, or with layer numbers."""
    lists: dict[str, Any] = {}
    for key, value in part.items():
        if key in NUMBERS and isinstance(value, list):
            lists[key] = [
                index
                for index, origin in enumerate(origins)
                if origin.number in (origin.config.get(key) or [])
            ]
        elif (
            isinstance(value, list | str)
            and len(value) == n_layers
            and PER_LAYER.fullmatch(key)
            and (isinstance(value, list) or "pattern" in key)
        ):
            entries = [_entry(origin, key, value) for origin in origins]
            lists[key] = "".join(entries) if isinstance(value, str) else entries
    if "layer_types" not in lists and (types := _attention_types(part, origins)):
        lists["layer_types"] = types
    return lists


def _entry(origin: LayerOrigin, key: str, default: Sequence[Any]) -> Any:
    values = origin.config.get(key)
    if not isinstance(values, list | str) or len(values) <= origin.number:
        values = default
    return values[min(origin.number, len(values) - 1)]


def _attention_types(part: Config, origins: Sequence[LayerOrigin]) -> list[str] | None:
    """Kinds of attention that the configuration does not list; None if all are one."""
    types = []
    for origin in origins:
        config = origin.config
        period = config.get("sliding_window_pattern")
        period = period or ALTERNATING.get(str(config.get("model_type")))
        is_sliding = period is not None and (origin.number + 1) % period != 0
        if config.get("use_sliding_window"):
            is_sliding = origin.number >= config.get("max_window_layers", 0)
        types.append("sliding_attention" if is_sliding else "full_attention")
    is_usual = part.get("model_type") not in ALTERNATING
    if len({*types}) == 1 and is_usual and not part.get("use_sliding_window"):
        return None
    return types


def _differing_kinds(part: Config, origins: Sequence[LayerOrigin]) -> Iterator[str]:
    """Problems of layers whose kind follows from their number, and changes with it."""
    for key, (is_special, kind) in BY_NUMBER.items():
        period = part.get(key)
        if not isinstance(period, int) or not period or isinstance(period, bool):
            continue
        if isinstance(part.get(REPLACED_BY.get(key, "")), list):
            continue
        for index, origin in enumerate(origins):
            if not isinstance(origin.config.get(key), int):
                continue
            before = is_special(origin.config, origin.number)
            if is_special(part, index) != before:
                yield (
                    f"layer {index} of the result is layer {origin.number} of "
                    f"{origin.model}, which has {'' if before else 'not '}{kind} by "
                    f"{key}={origin.config[key]} of its config.json; in the result it "
                    "would be the other kind: choose ranges that start at multiples "
                    "of this number"
                )
                break
