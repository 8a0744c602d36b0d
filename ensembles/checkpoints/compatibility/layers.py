"""Group tensors into layers by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Modules whose single numbered child is a layer.
USUAL = {"layers", "layer", "h", "block", "blocks"}
BEFORE = re.compile(
    r".*(?:emb|wte|wpe|shared|patch|pos|token_type|conv|stem|ln_pre|pre_layrnorm).*"
)
OUTPUT = re.compile(r".*(?:embed_out|unembed|lm_head|post_embed).*")


def layers_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Group tensor names by layer, in their order.

    The layer of a tensor is the first numbered module in its name that has siblings
    with other numbers, such as ``encoder.layer.3``; otherwise the module that holds
    the tensor.

    Parameters
    ----------
    names : iterable of str
        Tensor names, with dots between modules.

    Returns
    -------
    dict of str to list of str
        Tensor names of each layer.

    Examples
    --------
    >>> layers_of(["emb.weight", "h.0.mlp.weight", "h.0.bias", "h.1.bias"])
    {'emb': ['emb.weight'], 'h.0': ['h.0.mlp.weight', 'h.0.bias'], 'h.1': ['h.1.bias']}
    """
    names = list(names)
    numbers: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth, part in enumerate(parts):
            if part.isdecimal():
                numbers.setdefault(".".join(parts[:depth]), set()).add(part)
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(_layer(name, numbers), []).append(name)
    return layers


def _layer(name: str, numbers: dict[str, set[str]]) -> str:
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if part.isdecimal() and len(numbers[".".join(parts[:depth])]) > 1:
            return ".".join(parts[: depth + 1])
    return ".".join(parts[:-1]) or name


def layer_stacks(names: Iterable[str]) -> dict[str, int]:
    """Stacks of layers: modules whose children are numbered from 0 on.

    Parameters
    ----------
    names : iterable of str
        Tensor names, with dots between modules.

    Returns
    -------
    dict of str to int
        Number of layers by the name of the module, such as ``model.layers``. The
        layers must have tensors of the same name; a single layer counts if its module
        has a usual name.

    Examples
    --------
    >>> layer_stacks(["emb.weight", "h.0.mlp.weight", "h.0.bias", "h.1.bias"])
    {'h': 2}
    """
    tensors: dict[str, dict[int, set[str]]] = {}
    for name in names:
        split = split_layer(name)
        if split is not None:
            stack, number, tensor = split
            tensors.setdefault(stack, {}).setdefault(number, set()).add(tensor)
    return {
        stack: len(layers)
        for stack, layers in tensors.items()
        if layers.keys() == {*range(len(layers))}
        and (len(layers) > 1 or stack.rpartition(".")[2] in USUAL)
        and layers[0] & layers[len(layers) - 1]
    }


def split_layer(name: str) -> tuple[str, int, str] | None:
    """Split a tensor name at its first number.

    Parameters
    ----------
    name : str
        Tensor name, with dots between modules.

    Returns
    -------
    (str, int, str) or None
        Stack of layers, number of the layer, and name of the tensor in the layer; None
        for names without a number between two dots.

    Examples
    --------
    >>> split_layer("model.layers.3.mlp.up_proj.weight")
    ('model.layers', 3, 'mlp.up_proj.weight')
    """
    parts = name.split(".")
    for depth, part in enumerate(parts[:-1]):
        if depth and part.isdecimal():
            rest = ".".join(parts[depth + 1 :])
            return ".".join(parts[:depth]), int(part), rest
    return None


def layer_depths(names: Iterable[str], *, after: float = 0.0) -> dict[str, float]:
    """Position of the layer of each tensor in its stack.

    Parameters
    ----------
    names : iterable of str
        Tensor names, with dots between modules.
    after : float, default=0.0
        Position of tensors outside of layers that are used after the layers, such as
        final norms and output layers; see `is_after_layers`.

    Returns
    -------
    dict of str to float
        From 0 (first layer) to 1 (last layer, and a single one) by tensor name; 0 for
        tensors that are used before the layers.

    Examples
    --------
    >>> layer_depths(["emb.weight", "h.0.bias", "h.1.bias", "h.2.bias"])
    {'emb.weight': 0.0, 'h.0.bias': 0.0, 'h.1.bias': 0.5, 'h.2.bias': 1.0}
    """
    names = list(names)
    stacks = layer_stacks(names)
    depths = {}
    for name in names:
        stack, number, _ = split_layer(name) or ("", 0, "")
        depths[name] = after if is_after_layers(name) else 0.0
        if stack in stacks:
            depths[name] = depth_of(number, stacks[stack])
    return depths


def depth_of(index: int, n_layers: int) -> float:
    """Position of a layer, from 0 (first) to 1 (last, and a single one).

    Parameters
    ----------
    index : int
        Number of the layer, from 0.
    n_layers : int
        Number of layers.

    Returns
    -------
    float
    """
    return index / (n_layers - 1) if n_layers > 1 else 1.0


def is_after_layers(name: str) -> bool:
    """Whether a tensor outside of layers is used after them, by its name.

    Parameters
    ----------
    name : str
        Tensor name.

    Returns
    -------
    bool
        False for embeddings, patches and convolutions and what belongs to them; True
        for final norms, poolers, output layers and all others.

    Examples
    --------
    >>> is_after_layers("model.embed_tokens.weight"), is_after_layers("lm_head.weight")
    (False, True)
    """
    return BEFORE.fullmatch(name) is None or OUTPUT.fullmatch(name) is not None
