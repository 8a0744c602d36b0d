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
from ensembles.checkpoints.recipes.method import Method, tensor_settings
from ensembles.checkpoints.recipes.methods import method_of
from ensembles.checkpoints.recipes.parameters import Input


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
    method = method_of(recipe.method)
    if method is None:
        raise ValueError(f"merge_method {recipe.method!r} is unknown")
    sources, base = method.members_of(recipe.models, recipe.base_model)
    scopes = [*(source.parameters for source in recipe.models), recipe.parameters]
    rule = method.rule_for(has_base=base is not None, scopes=scopes)
    members = [
        read_layout(Path(source.model), index) for index, source in enumerate(sources)
    ]
    settings = _settings(recipe, method, rule, sources, members[0])
    return plan(
        members,
        out,
        base=None if base is None else base.model,
        rule=rule,
        # Those of any tensor: the default scope of a rule may be the model.
        rule_params=next(iter(settings.values())).rule_params,
        settings=settings,
        dtype=recipe.out_dtype or recipe.dtype,
        **options,
    )


def _settings(
    recipe: Recipe,
    method: Method,
    rule: str,
    sources: Sequence[Source],
    first: Checkpoint,
) -> dict[str, TensorSettings]:
    """Weights and parameters of each tensor."""
    depths = layer_depths(first.names)
    return {
        name: tensor_settings(
            method,
            rule,
            name,
            depths[name],
            [Input(source.model, name, source.parameters) for source in sources],
            (recipe.parameters,),
        )
        for name in first.names
    }
