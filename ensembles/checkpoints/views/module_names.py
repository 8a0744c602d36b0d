"""Find the modules that an adapter updates among the tensors of its base."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

# Prefixes of kohya's names, to the folders of a diffusers pipeline.
COMPONENTS = {
    "unet": ("unet", "transformer"),
    "transformer": ("transformer",),
    "te": ("text_encoder",),
    "te1": ("text_encoder",),
    "te2": ("text_encoder_2",),
    "te3": ("text_encoder_3",),
}
KOHYA = re.compile(r"lora_(?P<component>unet|transformer|te\d?)_(?P<module>\w+)")
SEPARATOR = re.compile(r"[./]")


def names_in_base(names: Iterable[str], base: Iterable[str]) -> dict[str, str]:
    """Tensor of the base for each module or tensor that an adapter names.

    The names of both may have different prefixes, such as ``model.`` or
    ``language_model.``: the same change is made to all names with the same first
    component. Names of kohya have underscores in place of dots.

    Parameters
    ----------
    names : iterable of str
        Modules, such as ``model.layers.0.mlp.up_proj``, or names of tensors.
    base : iterable of str
        Tensor names of the base.

    Returns
    -------
    dict of str to str
        Tensor name by name of the adapter; names that are not in the base, or stand for
        several of its tensors, are left out.
    """
    tensors = {name.removesuffix(".weight"): name for name in base}
    tensors |= {name: name for name in tensors.values()}
    groups: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    underscored = _underscored(tensors)
    for name in names:
        kohya = KOHYA.fullmatch(name)
        if kohya is None:
            groups.setdefault(name.partition(".")[0], []).append(name)
            continue
        modules = underscored.get(kohya["module"], ())
        chosen = _in_component(modules, kohya["component"])
        if len(chosen) == 1:
            found[name] = tensors[chosen[0]]
    for group in groups.values():
        found |= _best_change(group, tensors)
    return found


def _underscored(tensors: Mapping[str, str]) -> dict[str, list[str]]:
    """Modules by the ends of their names, with underscores in place of dots."""
    ends: dict[str, list[str]] = {}
    for module in tensors:
        parts = SEPARATOR.split(module)
        for start in range(len(parts)):
            ends.setdefault("_".join(parts[start:]), []).append(module)
    return ends


def _in_component(modules: Iterable[str], component: str) -> list[str]:
    """Modules in the folder of a component, or all without such folders."""
    folders = COMPONENTS.get(component, ())
    inside = [m for m in modules if m.partition("/")[0] in folders]
    return inside or [module for module in modules if "/" not in module]


def _best_change(group: list[str], tensors: Mapping[str, str]) -> dict[str, str]:
    """Names changed by the one prefix with which most of them are in the base."""
    best: dict[str, str] = {}
    for removed, added in _changes(group, tensors):
        changed = {
            name: tensors[added + name.removeprefix(removed)]
            for name in group
            if name.startswith(removed)
            and added + name.removeprefix(removed) in tensors
        }
        if len(changed) > len(best):
            best = changed
        elif len(changed) == len(best):
            # Either may be right, so that neither is used.
            best = {name: t for name, t in best.items() if changed.get(name) == t}
        if len(best) == len(group) and not removed + added:
            break
    return best


def _changes(
    group: Iterable[str], tensors: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Prefixes to remove and to add with which a name of the group is in the base.

    Without a change first, then with as few components removed as possible.
    """
    yield "", ""
    for name in group:
        parts = name.split(".")
        for n_removed in range(len(parts) - 1):
            end = ".".join(parts[n_removed:])
            removed = name.removesuffix(end)
            added = [
                module.removesuffix(end)
                for module in tensors
                if module == end or module.endswith((f".{end}", f"/{end}"))
            ]
            if added:
                yield from ((removed, prefix) for prefix in dict.fromkeys(added))
                return
