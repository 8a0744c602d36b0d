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
