"""Plan the merge of a recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensembles.checkpoints.compatibility.configuration import is_card
from ensembles.checkpoints.compatibility.layers import layer_depths, layer_stacks
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.average import silent
from ensembles.checkpoints.planning.destination import output_format
from ensembles.checkpoints.planning.opening import all_problems
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.recipes.document import (
    Mixture,
    Module,
    Recipe,
    Settings,
    Source,
)
from ensembles.checkpoints.recipes.method import Method, tensor_settings
from ensembles.checkpoints.recipes.methods import method_of
from ensembles.checkpoints.recipes.mixtures.mixture import plan_mixture
from ensembles.checkpoints.recipes.model_paths import model_path
from ensembles.checkpoints.recipes.parameters import Input
from ensembles.checkpoints.recipes.stacking import Inputs, stacked
from ensembles.checkpoints.recipes.vocabulary import with_tokenizer
from ensembles.checkpoints.views.adapted import open_adapted


def plan_recipe(
    recipe: Recipe | Mixture,
    out: str | os.PathLike[str] | None = None,
    *,
    results: Mapping[str, Member] | None = None,
    run_prompts: bool = True,
    progress: Callable[[int], None] = silent,
    **options: Any,
) -> Plan:
    """Plan a merge.

    Parameters
    ----------
    recipe : Recipe or Mixture
        The merge, as from `read_recipes`.
    out : path or None, default=None
        Path of the output, as in `plan`.
    results : mapping of str to path or Checkpoint, or None, default=None
        Results of other merges, by the names that the recipe has for them in place of
        paths; None means that all models are paths.
    run_prompts : bool, default=True
        Whether the base of a mixture of experts runs on the prompts. False gives a plan
        to look at, whose router is NaN.
    progress : callable, optional
        Called with the number of bytes read since the last call, while the base of a
        mixture of experts runs on the prompts.
    **options
        Options of `plan` that say how the result is written, such as ``memory``.

    Returns
    -------
    Plan
        Of a mixture of experts, copies of the tensors of a single member.

    Raises
    ------
    FileNotFoundError
        If a model does not exist.
    ImportError
        If a router needs transformers, and it is not installed.
    ValueError
        If the models cannot be merged; the message lists all problems.
    """
    if isinstance(recipe, Mixture):
        opened = _opened(recipe, results or {})
        how: dict[str, Any] = {"run_prompts": run_prompts, "progress": progress}
        return plan_mixture(recipe, opened, out, **how, **options)
    method = method_of(recipe.method)
    if method is None:
        raise ValueError(f"merge_method {recipe.method!r} is unknown")
    models, of_tokens = with_tokenizer(recipe, _opened(recipe, results or {}))
    with _located(recipe):
        inputs = (_whole if recipe.models else stacked)(recipe, method, models)
    members, notes = [*inputs.members], [*recipe.notes, *inputs.notes]
    like = models[recipe.base_model or inputs.first]
    members[0], more = _with_files_of(members[0], like)
    is_directory = out is not None and output_format(Path(out)) == "directory"
    if is_directory and members[0].made_from and options.get("shard_size") is None:
        options["shard_size"] = _largest_part(like)
    with _located(recipe):
        planned = plan(
            members,
            out,
            base=inputs.base,
            rule=inputs.rule,
            **_applied(inputs),
            dtype=recipe.out_dtype or recipe.dtype,
            **({"missing": "present"} if inputs.has_gaps else {}) | options,
        )
    notes += [*of_tokens, *more, *([method.note] if method.note else [])]
    return replace(planned, notes=(*notes, *planned.notes))


@contextmanager
def _located(recipe: Recipe) -> Iterator[None]:
    """Add the file and line of the recipe to errors that have none."""
    try:
        yield
    except ValueError as error:
        where = f"{recipe.path}:"
        if str(error).startswith(where):
            raise
        lines = str(error).splitlines()
        raise ValueError(
            "\n".join(f"{where}{recipe.line}: {line}" for line in lines)
        ) from None


def _applied(inputs: Inputs) -> dict[str, Any]:
    """Weights and parameters of the plan, and the settings of tensors that differ."""
    settings = [*inputs.settings.values()]
    if not settings:
        return {}
    first = settings[0]
    if not inputs.has_gaps and all(entry == first for entry in settings):
        return {"weights": first.weights, "rule_params": first.rule_params}
    # The scope of the statistics is that of all tensors.
    scope = {k: v for k, v in first.rule_params.items() if k == "scope"}
    return {"rule_params": scope, "settings": inputs.settings}


def sources_of(recipe: Recipe | Mixture) -> Iterator[Source]:
    """All models that a recipe names, in its order, with repetitions.

    Parameters
    ----------
    recipe : Recipe or Mixture
        The merge.

    Yields
    ------
    Source
        A source without parameters stands for a base.
    """
    if isinstance(recipe, Mixture):
        yield Source(recipe.base_model, line=recipe.line)
        for expert in (*recipe.experts, *recipe.shared_experts):
            yield Source(expert.model, line=expert.line)
        return
    parts: list[Recipe | Module] = [recipe, *recipe.modules.values()]
    for part in parts:
        yield from part.models
        for entry in part.slices:
            yield from entry.sources
            if entry.base_model is not None:
                yield Source(entry.base_model, line=entry.line)
    if recipe.base_model is not None:
        yield Source(recipe.base_model, line=recipe.line)


def _opened(
    recipe: Recipe | Mixture, results: Mapping[str, Member]
) -> dict[str, Checkpoint]:
    """Each model of a recipe, opened once; one error for all that cannot be opened."""
    models: dict[str, Checkpoint] = {}
    errors: dict[str, Exception] = {}
    for source in sources_of(recipe):
        if source.model in models or source.model in errors:
            continue
        name, plus, adapter = source.model.partition("+")
        result = results.get(name)
        member: Member = source.model if result is None else result
        if plus and isinstance(result, Checkpoint) and result.path is not None:
            member = f"{result.path}+{adapter}"
        try:
            if isinstance(member, str):
                member = model_path(member)
            models[source.model] = open_adapted(member, len(models))
        except (OSError, ValueError) as error:
            errors[source.model] = type(error)(f"{recipe.path}:{source.line}: {error}")
    if errors:
        kinds = {type(error) for error in errors.values()}
        kind = FileNotFoundError if kinds == {FileNotFoundError} else ValueError
        raise kind(all_problems([str(error) for error in errors.values()]))
    return models


def _whole(recipe: Recipe, method: Method, models: dict[str, Checkpoint]) -> Inputs:
    """Members and base of a merge of whole models."""
    sources, base = method.members_of(recipe.models, recipe.base_model)
    _check_layers(recipe, models)
    scopes = [*(source.parameters for source in recipe.models), recipe.parameters]
    rule = method.rule_for(has_base=base is not None, scopes=scopes)
    members = [models[source.model] for source in sources]
    depths = layer_depths(members[0].names)
    shared: tuple[Settings, ...] = (recipe.parameters,)
    settings: dict[str, TensorSettings] = {}
    for name, t in depths.items():
        inputs = [Input(source.model, name, source.parameters) for source in sources]
        settings[name] = tensor_settings(method, rule, name, t, inputs, shared)
    opened = None if base is None else models[base.model]
    if opened is not None:
        opened = replace(opened, name=f"base {opened.name}")
    return Inputs(members, opened, rule, settings, sources[0].model)


def _check_layers(recipe: Recipe, models: Mapping[str, Checkpoint]) -> None:
    """Raise `ValueError` if whole models differ in the number of layers."""
    problems = []
    first = recipe.models[0]
    own = layer_stacks(models[first.model].names)
    for source in recipe.models[1:]:
        other = layer_stacks(models[source.model].names)
        for stack, n_layers in own.items():
            if other.get(stack, n_layers) != n_layers:
                problems.append(
                    f"{recipe.path}:{source.line}: models must have the same number of "
                    f"layers: {source.model} has {other[stack]} in {stack}, "
                    f"{first.model} has {n_layers}; choose layers with slices"
                )
    if problems:
        raise ValueError(all_problems(problems))


def _with_files_of(
    member: Checkpoint, like: Checkpoint
) -> tuple[Checkpoint, list[str]]:
    """First member with the configuration and tokenizer of the base, and a note."""
    if member.path == like.path or not (member.is_directory and like.is_directory):
        return member, []
    contents: dict[str, bytes | None] = {}
    for name in {*member.files, *like.files}:
        if name not in like.files:
            contents[name] = None
        elif not is_card(name):
            content = like.read_file(name)
            if name not in member.files or content != member.read_file(name):
                contents[name] = content
    if not contents:
        return member, []
    note = f"configuration and tokenizer of the result are those of {like.name}"
    return member.with_files(contents), [note]


def _largest_part(model: Checkpoint) -> int | None:
    """Size of the largest shard of a model with several; modules are no shards."""
    sizes = [
        sum(tensor.nbytes for name in names if (tensor := model.tensor(name)))
        for file, names in model.parts.items()
        if "/" not in file and file not in model.extras
    ]
    return max(sizes) if len(sizes) > 1 else None
