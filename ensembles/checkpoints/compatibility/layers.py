"""Group tensors into layers by their names."""

from __future__ import annotations

from collections.abc import Iterable


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


def layer_depths(names: Iterable[str]) -> dict[str, float]:
    """Position of the layer of each tensor.

    Parameters
    ----------
    names : iterable of str
        Tensor names, with dots between modules.

    Returns
    -------
    dict of str to float
        From 0 (first layer) to 1 (last layer of the same list), by tensor name; 0
        outside of numbered layers.

    Examples
    --------
    >>> layer_depths(["emb.weight", "h.0.bias", "h.1.bias", "h.2.bias"])
    {'emb.weight': 0.0, 'h.0.bias': 0.0, 'h.1.bias': 0.5, 'h.2.bias': 1.0}
    """
    layers = layers_of(names)
    last: dict[str, int] = {}
    for layer in layers:
        stack, _, number = layer.rpartition(".")
        if number.isdecimal():
            last[stack] = max(last.get(stack, 0), int(number))
    depths = {}
    for layer, tensors in layers.items():
        stack, _, number = layer.rpartition(".")
        is_numbered = number.isdecimal() and last[stack] > 0
        depth = int(number) / last[stack] if is_numbered else 0.0
        depths.update(dict.fromkeys(tensors, depth))
    return depths
