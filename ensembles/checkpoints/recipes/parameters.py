"""Values of a recipe's parameters for one tensor: gradients and filters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ensembles.checkpoints.recipes.document import Setting


def setting_for(setting: Setting, tensor: str, depth: float) -> Any:
    """Value of a setting for a tensor.

    Parameters
    ----------
    setting : value, list of values, mapping, or list of mappings
        A list of numbers is a gradient: its values lie at equal distances over the
        layers, and are interpolated between them. Mappings have a ``value`` and a
        ``filter``, a part of the tensor name; the first that matches is used.
    tensor : str
        Tensor name.
    depth : float
        Position of the layer, from 0 (first) to 1 (last); 0 outside of layers.

    Returns
    -------
    value or None
        None if no filter matches.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return setting
    if not any(isinstance(entry, Mapping) for entry in setting):
        return _interpolated(setting, depth)
    for entry in setting:
        wanted = entry.get("filter")
        if wanted in (None, "*") or wanted in tensor:
            return setting_for(entry["value"], tensor, depth)
    return None


def _interpolated(values: Sequence[Any], depth: float) -> Any:
    scaled = depth * (len(values) - 1)
    before = int(scaled)
    if any(isinstance(value, bool | str) for value in values):
        return values[before]
    after = min(before + 1, len(values) - 1)
    share = scaled - before
    return (1 - share) * values[before] + share * values[after]


def first_setting(
    name: str,
    settings: Iterable[Mapping[str, Setting]],
    tensor: str,
    depth: float,
) -> Any:
    """Value of a parameter in the first of several settings that has one.

    Parameters
    ----------
    name : str
        Name of the parameter.
    settings : iterable of mapping
        Settings by name, the most specific first.
    tensor, depth
        As in `setting_for`.

    Returns
    -------
    value or None
        None if no settings have a value for the tensor.
    """
    for entries in settings:
        if name in entries:
            value = setting_for(entries[name], tensor, depth)
            if value is not None:
                return value
    return None
