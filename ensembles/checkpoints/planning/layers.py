"""Which tensors are of one layer, told by their names."""

from __future__ import annotations

from collections.abc import Iterable


def layers_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of tensors by layer, in their order.

    A layer is a numbered one, ``encoder.layer.3``, where there are several numbers at
    that place; else the module that holds the tensor.

    Parameters
    ----------
    names : iterable of str

    Returns
    -------
    dict of str to list of str

    Examples
    --------
    >>> layers_of(["emb.weight", "h.0.mlp.weight", "h.0.bias", "h.1.bias"])
    {'emb': ['emb.weight'], 'h.0': ['h.0.mlp.weight', 'h.0.bias'], 'h.1': ['h.1.bias']}
    """
    names = list(names)
    numbers: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts):
            if part.isdecimal():
                numbers.setdefault(".".join(parts[:place]), set()).add(part)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_layer(name, numbers), []).append(name)
    return found


def _layer(name: str, numbers: dict[str, set[str]]) -> str:
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdecimal() and len(numbers[".".join(parts[:place])]) > 1:
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or name
