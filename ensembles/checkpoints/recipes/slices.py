"""Tensors of a result whose layers are chosen from models, and where each is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.layers import (
    depth_of,
    is_after_layers,
    layer_stacks,
    split_layer,
)
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.recipes.document import Settings, Slice, Source
from ensembles.checkpoints.recipes.layer_config import part_of


class Origin(NamedTuple):
    """Origin of a tensor of the result.

    Parameters
    ----------
    tensors : tuple of str or None
        Name of the tensor in the model of each source; None if it has no such tensor.
    part : Slice
        Slice of the tensor, with its sources and parameters.
    shared : tuple of mapping
        Parameters of the slice, of its module and of the merge.
    t : float
        Position of the layer in the slice, from 0 to 1; 0 outside of layers.
    """

    tensors: tuple[str | None, ...]
    part: Slice
    shared: tuple[Settings, ...]
    t: float


class StackedModule(NamedTuple):
    """A module of the result with its slices.

    Parameters
    ----------
    stack : str
        Name of the stack of layers, such as ``model.layers``; empty without layers.
    slices : tuple of Slice
        Slices of the module.
    shared : tuple of mapping
        Parameters of the module and of the merge.
    outside : list of str
        Tensors of the module outside of its layers, by their names in the first model.
    line : int
        Line of the recipe.
    """

    stack: str
    slices: tuple[Slice, ...]
    shared: tuple[Settings, ...]
    outside: list[str]
    line: int

    def layers(self) -> Iterator[tuple[int, Slice, int, int]]:
        """Number, slice, position in the slice and length of it, for each layer."""
        number = 0
        for part in self.slices:
            first, end = part.sources[0].layer_range or (0, 0)
            for position in range(end - first):
                yield number, part, position, end - first
                number += 1


def main_stack(model: Checkpoint, names: Sequence[str]) -> tuple[str, str]:
    """Stack of layers that slices choose from, and the problem if it is not clear.

    Parameters
    ----------
    model : Checkpoint
        A model.
    names : sequence of str
        Tensors of the module, of all modules of the model or of one.

    Returns
    -------
    stack : str
        Name of the stack.
    problem : str
        Message; empty if there is one stack, or one whose number of layers is in the
        configuration.
    """
    stacks = layer_stacks(names)
    if len(stacks) > 1 and model.config:
        described = {s for s, n in stacks.items() if part_of(model.config, s, n)}
        stacks = {s: n for s, n in stacks.items() if s in described}
    if len(stacks) == 1:
        return next(iter(stacks)), ""
    shown = ", ".join(f"{stack} ({n} layers)" for stack, n in stacks.items())
    return "", (
        f"slices need a model with one stack of layers: {model.name} has "
        f"{shown or 'none'}{'; name each under modules' * (len(stacks) > 1)}"
    )


def origins_of(
    module: StackedModule, models: Mapping[str, Checkpoint], problems: list[str]
) -> dict[str, Origin]:
    """Origin of each tensor of a module of the result.

    Layers have the numbers of their order. Tensors that are used before the layers
    are merged from the sources of the first slice, the others from the last.

    Parameters
    ----------
    module : StackedModule
        The module.
    models : mapping of str to Checkpoint
        Opened models, with the names of the first.
    problems : list of str
        Problems found so far, to which others are added.

    Returns
    -------
    dict of str to Origin
        By the name of the tensor in the result.
    """
    by_layer = {model: _by_layer(c, module.stack) for model, c in models.items()}
    problems += _range_problems(module, by_layer)
    if problems:
        return {}
    is_after = {name: _is_after(name, models) for name in module.outside}
    before = [name for name in module.outside if not is_after[name]]
    after = [name for name in module.outside if is_after[name]]
    origins = _outside(before, module.slices[0], module, models)
    for number, part, position, length in module.layers():
        layers = [_layer(by_layer, source, position) for source in part.sources]
        shared = (part.parameters, *module.shared)
        for tensor in dict.fromkeys(t for layer in layers for t in layer):
            origins[f"{module.stack}.{number}.{tensor}"] = Origin(
                tuple(layer.get(tensor) for layer in layers),
                part,
                shared,
                depth_of(position, length),
            )
    return origins | _outside(after, module.slices[-1], module, models)


def _is_after(name: str, models: Mapping[str, Checkpoint]) -> bool:
    """Whether a tensor is of the last slice; one that is tied in all models is not."""
    (target, *others) = dict.fromkeys(
        m.aliases.get(name, name) for m in models.values()
    )
    return is_after_layers(name if others else target)


def _outside(
    names: Sequence[str],
    part: Slice,
    module: StackedModule,
    models: Mapping[str, Checkpoint],
) -> dict[str, Origin]:
    """Origins of tensors outside of layers, from the sources of a slice."""
    shared = (part.parameters, *module.shared)
    origins = {}
    for name in names:
        tensors = tuple(_held(models[s.model], name) for s in part.sources)
        if any(tensors):
            origins[name] = Origin(tensors, part, shared, 0.0)
    return origins


def _held(model: Checkpoint, name: str) -> str | None:
    return name if model.tensor(name) is not None else None


def _by_layer(model: Checkpoint, stack: str) -> list[dict[str, str]]:
    """Full names of the tensors of each layer, by their names in the layer."""
    layers: dict[int, dict[str, str]] = {}
    for name in model.names:
        split = split_layer(name)
        if split is not None and split[0] == stack:
            layers.setdefault(split[1], {})[split[2]] = name
    return [layers.get(number, {}) for number in range(max(layers, default=-1) + 1)]


def _layer(
    by_layer: Mapping[str, list[dict[str, str]]], source: Source, position: int
) -> dict[str, str]:
    first, _ = source.layer_range or (0, 0)
    return by_layer[source.model][first + position]


def _range_problems(
    module: StackedModule, by_layer: Mapping[str, list[dict[str, str]]]
) -> Iterator[str]:
    """Problems of ranges that are not in a model, or differ in length."""
    for part in module.slices:
        lengths = set()
        for source in part.sources:
            first, end = source.layer_range or (0, 0)
            lengths.add(end - first)
            n_layers = len(by_layer[source.model])
            if end > n_layers or first < 0:
                yield (
                    f"{source.line}: layer_range [{first}, {end}] must be in the "
                    f"{n_layers} layers of {source.model}, which [0, {n_layers}] is "
                    "all of"
                )
        if len(lengths) > 1:
            yield (
                f"{part.line}: all sources of a slice must have the same number "
                f"of layers, found {', '.join(map(str, sorted(lengths)))}"
            )


def shape_problems(
    origins: Mapping[str, Origin],
    stack: str,
    like: Checkpoint,
    models: Mapping[str, Checkpoint],
) -> Iterator[str]:
    """Problems of layers that the configuration of the result does not describe.

    Parameters
    ----------
    origins : mapping of str to Origin
        Origin of each tensor of the result.
    stack : str
        Name of the stack of layers.
    like : Checkpoint
        Model whose configuration the result has.
    models : mapping of str to Checkpoint
        Opened models.

    Yields
    ------
    str
        One message for each kind of tensor that no layer of ``like`` has.
    """
    known: dict[str, set[tuple[int, ...]]] = {}
    for layer in _by_layer(like, stack):
        for tensor, name in layer.items():
            stored = like.tensor(name)
            known.setdefault(tensor, set()).update({stored.shape} if stored else ())
    seen = set()
    for name, origin in origins.items():
        split = split_layer(name)
        if split is None or split[0] != stack:
            continue
        for source, held in zip(origin.part.sources, origin.tensors, strict=True):
            stored = models[source.model].tensor(held) if held else None
            if stored is None or stored.shape in known.get(split[2], ()):
                continue
            if (split[2], source.model) not in seen:
                seen.add((split[2], source.model))
                shapes = listed([str(s) for s in sorted(known.get(split[2], ()))])
                yield (
                    f"{source.line}: layers of {source.model} do not fit into "
                    f"{like.name}: {held} has the shape {stored.shape}, layers of "
                    f"{like.name} have {split[2]} with {shapes or 'no such tensor'}"
                )


def absent_tensors(
    origins: Mapping[str, Origin], module: StackedModule, like: Checkpoint
) -> Iterator[str]:
    """Problems of layers that lack tensors which the model needs in their place.

    Parameters
    ----------
    origins : mapping of str to Origin
        Origin of each tensor of the result.
    module : StackedModule
        The module.
    like : Checkpoint
        Model whose configuration the result has.

    Yields
    ------
    str
        A message for tensors that all layers of ``like`` have, or that its first layer
        alone has, such as a bias of relative positions.
    """
    layers = [{*layer} for layer in _by_layer(like, module.stack)]
    if not layers:
        return
    everywhere = set.intersection(*layers)
    first_alone = layers[0].difference(*layers[1:]) if len(layers) > 1 else set()
    for number, part, _, _ in module.layers():
        needed = everywhere | first_alone if number == 0 else everywhere
        names = sorted(f"{module.stack}.{number}.{tensor}" for tensor in needed)
        absent = [name for name in names if name not in origins]
        extra = sorted(
            name
            for tensor in first_alone
            if number and (name := f"{module.stack}.{number}.{tensor}") in origins
        )
        for tensors, what in ((absent, "lacks"), (extra, "must not have")):
            if tensors:
                yield (
                    f"{part.line}: layer {number} of the result {what} "
                    f"{listed(tensors)}, to be like layer {number} of {like.name}; "
                    "choose other layers"
                )
                return


def order_notes(
    module: StackedModule, models: Mapping[str, Checkpoint]
) -> Iterator[str]:
    """Note on the slices that tensors outside of the layers are merged from.

    Parameters
    ----------
    module : StackedModule
        The module.
    models : mapping of str to Checkpoint
        Opened models.

    Yields
    ------
    str
        One sentence, if the first slice has other models than the last.
    """
    first, last = ([s.model for s in module.slices[i].sources] for i in (0, -1))
    if first == last:
        return
    before = [name for name in module.outside if not _is_after(name, models)]
    after = [name for name in module.outside if name not in before]
    for names, which, sources in ((before, "first", first), (after, "last", last)):
        if names:
            yield (
                f"{listed(names)} {'is' if len(names) == 1 else 'are'} of the {which} "
                f"slice: {listed(sources)}"
            )
