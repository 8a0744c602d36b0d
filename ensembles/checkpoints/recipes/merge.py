"""Plan and carry out the merges of a recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensembles.checkpoints.compatibility.layers import layer_depths
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.directories.open import read_layout
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.recipes.document import Recipe, Source
from ensembles.checkpoints.recipes.methods import METHODS, Method
from ensembles.checkpoints.recipes.parameters import first_setting


def plan_recipe(
    recipe: Recipe, out: str | os.PathLike[str] | None = None, **options: Any
) -> Plan:
    """Plan a merge.

    Parameters
    ----------
    recipe : Recipe
        The merge, as from `read_recipes`.
    out : path or None, default=None
        Path of the output, as in `plan`.
    **options
        Options of `plan` that say how the result is written, such as ``memory``.

    Returns
    -------
    Plan

    Raises
    ------
    FileNotFoundError
        If a model does not exist.
    ValueError
        If the models cannot be merged; the message lists all problems.
    """
    method = METHODS[recipe.method]
    sources = [s for s in recipe.models if s.model != recipe.base_model]
    members = [
        read_layout(Path(source.model), index) for index, source in enumerate(sources)
    ]
    return plan(
        members,
        out,
        base=recipe.base_model,
        rule=method.rule,
        settings=tensor_settings(recipe, method, sources, members[0]),
        dtype=recipe.out_dtype or recipe.dtype,
        **options,
    )


def tensor_settings(
    recipe: Recipe, method: Method, sources: Sequence[Source], first: Checkpoint
) -> dict[str, TensorSettings]:
    """Weights and parameters of each tensor.

    Parameters
    ----------
    recipe : Recipe
        The merge.
    method : Method
        Its merge method.
    sources : sequence of Source
        Members, without the base.
    first : Checkpoint
        First member, whose tensors are named.

    Returns
    -------
    dict of str to TensorSettings
    """
    depths = layer_depths(first.names)
    return {
        name: _settings_of(name, depths[name], recipe, method, sources)
        for name in first.names
    }


def _settings_of(
    name: str,
    depth: float,
    recipe: Recipe,
    method: Method,
    sources: Sequence[Source],
) -> TensorSettings:
    def values(parameter: str) -> list[Any]:
        found = [
            first_setting(parameter, (s.parameters, recipe.parameters), name, depth)
            for s in sources
        ]
        return [method.defaults.get(parameter) if v is None else v for v in found]

    params = dict(method.fixed)
    for theirs, ours in method.params.items():
        if theirs in method.per_model:
            value: Any = values(theirs)
        else:
            value = first_setting(theirs, (recipe.parameters,), name, depth)
            value = method.defaults.get(theirs) if value is None else value
        if value is not None and value != [None] * len(sources):
            params[ours] = value
    weights = values("weight")
    return TensorSettings(None if None in weights else weights, params)
