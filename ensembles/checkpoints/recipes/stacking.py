"""Members of a merge with slices or modules: virtual checkpoints of chosen layers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ensembles.checkpoints.compatibility.configuration import differences
from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.layers import layer_stacks, split_layer
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning.opening import all_problems
from ensembles.checkpoints.recipes.document import Module, Recipe, Slice, Source
from ensembles.checkpoints.recipes.layer_config import LayerOrigin, rewritten
from ensembles.checkpoints.recipes.method import Method, tensor_settings
from ensembles.checkpoints.recipes.parameters import Input
from ensembles.checkpoints.recipes.slices import (
    Origin,
    StackedModule,
    absent_tensors,
    main_stack,
    order_notes,
    origins_of,
    shape_problems,
)
from ensembles.checkpoints.views.renamed import renamed

CONFIG = "config.json"
# Modules of mergekit's architectures, by what their tensors are named.
NAMED = {
    "vision_tower": re.compile(r"(?:.*\.)?(?:vision\w*|visual)\..*"),
    "multi_modal_projector": re.compile(
        r"(?:.*\.)?(?:multi_modal_projector|merger)\..*"
    ),
    "audio_tower": re.compile(r"(?:.*\.)?audio\w*\..*"),
}
# Modules that have the tensors of no other module.
REST = ("text_decoder", "default", "shared")


class Inputs(NamedTuple):
    """Members, base and rule of a merge.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members of the rule.
    base : Checkpoint or None
        Its base; None without one.
    rule : str
        Name of the rule.
    settings : mapping of str to TensorSettings
        Weights and parameters of each tensor.
    first : str
        First model of the recipe, whose files the result has without a base.
    has_gaps : bool, default=False
        Whether some tensors are merged from fewer members than others.
    notes : sequence of str, default=()
        Messages for the user.
    """

    members: Sequence[Checkpoint]
    base: Checkpoint | None
    rule: str
    settings: Mapping[str, TensorSettings]
    first: str
    has_gaps: bool = False
    notes: Sequence[str] = ()


def stacked(recipe: Recipe, method: Method, models: Mapping[str, Checkpoint]) -> Inputs:
    """Members and base of a merge with slices or modules.

    Parameters
    ----------
    recipe : Recipe
        The merge.
    method : Method
        Its merge method.
    models : mapping of str to Checkpoint
        Opened models by their names in the recipe.

    Returns
    -------
    Inputs

    Raises
    ------
    ValueError
        If ranges are not in the models, or layers do not fit together; the message
        lists all problems.
    """
    problems: list[str] = []
    first = next(_parts(recipe)).sources[0].model
    like = models[recipe.base_model or first]
    models = {name: _with_names_of(model, like) for name, model in models.items()}
    modules = _modules(recipe, like, models, problems)
    origins: dict[str, Origin] = {}
    if not problems:
        for module in modules:
            origins |= origins_of(module, models, problems)
            problems += shape_problems(origins, module.stack, like, models)
            problems += absent_tensors(origins, module, like) if not problems else ()
    notes = [note for module in modules for note in order_notes(module, models)]
    if not problems:
        like = _with_config(modules, like, models, notes, problems)
    if problems:
        raise ValueError(all_problems([f"{recipe.path}:{p}" for p in problems]))
    others = {id(m): m for m in models.values() if m.path != like.path}
    notes += differences([models[recipe.base_model or first], *others.values()])
    return _inputs(recipe, method, models, origins, like)._replace(
        first=first, notes=notes
    )


def _inputs(
    recipe: Recipe,
    method: Method,
    models: Mapping[str, Checkpoint],
    origins: Mapping[str, Origin],
    like: Checkpoint,
) -> Inputs:
    """Virtual members and base, and the settings of each tensor."""
    members: list[dict[str, tuple[Checkpoint, str]]] = []
    base: dict[str, tuple[Checkpoint, str]] = {}
    inputs: dict[str, list[Input]] = {}
    for name, origin in origins.items():
        base_model = origin.part.base_model or recipe.base_model
        sources, apart = method.members_of(origin.part.sources, base_model)
        held = dict(zip(map(id, origin.part.sources), origin.tensors, strict=True))
        inputs[name] = []
        for index, source in enumerate(sources):
            if index == len(members):
                members.append({})
            tensor = held[id(source)]
            if tensor is not None:
                members[index][name] = models[source.model], tensor
                inputs[name].append(Input(source.model, tensor, source.parameters))
        if apart is not None and (tensor := held[id(apart)]) is not None:
            base[name] = models[apart.model], tensor
    scopes = [s.parameters for part in _parts(recipe) for s in part.sources]
    scopes += [scope for origin in origins.values() for scope in origin.shared]
    rule = method.rule_for(has_base=bool(base), scopes=scopes)
    settings = {
        name: tensor_settings(method, rule, name, origin.t, inputs[name], origin.shared)
        for name, origin in origins.items()
        if inputs[name]
    }
    views = [renamed(member) for member in members]
    views[0] = renamed(members[0], like=like)
    base_view = None
    if base:
        base_view = renamed(base)
        base_view = replace(base_view, name=f"base {base_view.name}")
    has_gaps = any(member.keys() != origins.keys() for member in members)
    return Inputs(views, base_view, rule, settings, "", has_gaps)


def _parts(recipe: Recipe) -> Iterator[Slice]:
    """Slices of a recipe and its modules; models of a module are one slice."""
    yield from recipe.slices
    for module in recipe.modules.values():
        yield from module.slices
        if module.models:
            yield Slice(module.models, line=module.line)


def _with_names_of(model: Checkpoint, like: Checkpoint) -> Checkpoint:
    """Model with a prefix added to or removed from its names, as the other has it."""
    names, stack = layer_stacks(model.names), next(iter(layer_stacks(like.names)), "")
    if stack in names or not stack:
        return model
    for own in names:
        if stack.endswith(f".{own}"):
            prefix = stack.removesuffix(own)
            new = {n: n if like.tensor(n) else f"{prefix}{n}" for n in model.names}
        elif own.endswith(f".{stack}"):
            prefix = own.removesuffix(stack)
            new = {n: n.removeprefix(prefix) for n in model.names}
        else:
            continue
        return replace(
            model,
            layout={new[n]: tensor for n, tensor in model.layout.items()},
            aliases={new[a]: new[n] for a, n in model.aliases.items()},
            order=[new[n] for n in model.order if n in new],
            parts={},
        )
    return model


def _modules(
    recipe: Recipe,
    like: Checkpoint,
    models: Mapping[str, Checkpoint],
    problems: list[str],
) -> list[StackedModule]:
    """Modules of the result, with all its tensors outside of layers."""
    every = list(dict.fromkeys(n for m in (like, *models.values()) for n in m.names))
    modules = recipe.modules or {"": Module((), recipe.slices, line=recipe.line)}
    tensors = _by_module(recipe, [*modules], every, like, problems)
    found = []
    for name, module in modules.items():
        own = tensors[name]
        stacks = {s for s in layer_stacks(like.names) if any(_in(n, s) for n in own)}
        stack = next(iter(stacks), "")
        if module.slices or len(stacks) > 1:
            stack, problem = main_stack(like, [n for n in like.names if n in own])
            problems += [f"{module.line}: {problem}"] * bool(problem)
        slices = module.slices or (_whole_slice(module, stack, models),)
        shared = (*([module.parameters] if recipe.modules else []), recipe.parameters)
        outside = [n for n in own if not (stack and _in(n, stack))]
        found.append(StackedModule(stack, slices, shared, outside, module.line))
    return found


def _in(name: str, stack: str) -> bool:
    split = split_layer(name)
    return split is not None and split[0] == stack


def _whole_slice(module: Module, stack: str, models: Mapping[str, Checkpoint]) -> Slice:
    """Models of a module as a slice of all layers."""
    sources = []
    for source in module.models:
        n_layers = layer_stacks(models[source.model].names).get(stack, 0)
        sources.append(replace(source, layer_range=(0, n_layers)))
    return Slice(tuple(sources), line=module.line)


def _by_module(
    recipe: Recipe,
    modules: Sequence[str],
    names: Sequence[str],
    like: Checkpoint,
    problems: list[str],
) -> dict[str, list[str]]:
    """Tensors of each module, by the module's name in their names."""
    tensors: dict[str, list[str]] = {module: [] for module in modules}
    rest = next((m for m in modules if m in REST or not m), None)
    left: list[str] = []
    for name in names:
        for module in modules:
            pattern = NAMED.get(module)
            parts = name.split(".")[:-1]
            if pattern.fullmatch(name) if pattern else module in parts:
                tensors[module].append(name)
                break
        else:
            (left if rest is None else tensors[rest]).append(name)
    empty = [module for module in modules if not tensors[module]]
    for module in empty:
        known = sorted({name.partition(".")[0] for name in like.names})
        problems.append(
            f"{recipe.modules[module].line}: module {module!r} has no tensors in "
            f"{like.name}; modules are parts of tensor names, such as {listed(known)}"
        )
    if left:
        problems.append(
            f"{recipe.line}: modules must have all tensors of {like.name}: "
            f"{listed(left)} {'is' if len(left) == 1 else 'are'} in none of them; add "
            f"a module, such as {left[0].partition('.')[0]!r}, or one with the name "
            "'default' for the rest"
        )
    return tensors


def _with_config(
    modules: Sequence[StackedModule],
    like: Checkpoint,
    models: Mapping[str, Checkpoint],
    notes: list[str],
    problems: list[str],
) -> Checkpoint:
    """Model that the result is like, with a configuration for other layers."""
    config = like.config
    if not config:
        return like
    for module in modules:
        if not module.stack:
            continue
        chosen = [
            _of_layer(part, position, models, like)
            for _, part, position, _ in module.layers()
        ]
        n_layers = layer_stacks(like.names)[module.stack]
        if [(o.config, o.number) for o in chosen] == [
            (like.config, number) for number in range(n_layers)
        ]:
            continue
        made = rewritten(config, module.stack, n_layers, chosen)
        config = made.config
        notes += made.notes
        problems += [f"{module.line}: {problem}" for problem in made.problems]
    if config == like.config:
        return like
    return like.with_files({CONFIG: (json.dumps(config, indent=2) + "\n").encode()})


def _of_layer(
    part: Slice,
    position: int,
    models: Mapping[str, Checkpoint],
    like: Checkpoint,
) -> LayerOrigin:
    """Origin of a layer: in the model that the result is like, or the first source."""
    source: Source = next(
        (s for s in part.sources if models[s.model].path == like.path), part.sources[0]
    )
    first, _ = source.layer_range or (0, 0)
    model = models[source.model]
    return LayerOrigin(source.model, model.config or like.config, first + position)
