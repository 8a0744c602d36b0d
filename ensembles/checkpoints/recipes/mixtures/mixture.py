"""Plan a mixture of experts whose experts are dense models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.average import silent
from ensembles.checkpoints.merging.conversion import as_conversion
from ensembles.checkpoints.planning.destination import output_format
from ensembles.checkpoints.planning.options import float_dtype
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.recipes.document import Mixture
from ensembles.checkpoints.recipes.mixtures.checks import (
    EMBEDDING,
    at_line,
    check_mixture,
    needs_prompts,
)
from ensembles.checkpoints.recipes.mixtures.routers import (
    prompted_rows,
    random_rows,
    similarity_notes,
)
from ensembles.checkpoints.recipes.mixtures.tensors import MixtureTensors

NOT_RUN = (
    "the router is not computed yet: the base runs on the prompts when the mixture is "
    "written"
)
SHARD_SIZE = 5 * 10**9  # bytes of a weight file


def plan_mixture(
    mixture: Mixture,
    models: Mapping[str, Checkpoint],
    out: str | os.PathLike[str] | None = None,
    *,
    run_prompts: bool = True,
    progress: Callable[[int], None] = silent,
    **options: Any,
) -> Plan:
    """Plan a mixture of experts.

    Experts are copies of the MLPs of their models; all other tensors are those of the
    base. For the router, the base runs on the prompts, after all else was checked.

    Parameters
    ----------
    mixture : Mixture
        The recipe, as from `read_recipes`.
    models : mapping of str to Checkpoint
        Base and models of the experts, by their names in the recipe.
    out : path or None, default=None
        Path of the output, as in `plan`.
    run_prompts : bool, default=True
        Whether the base runs on the prompts. False gives a plan to look at: its router
        is NaN.
    progress : callable, optional
        Called with the number of bytes of the base read since the last call, while it
        runs on the prompts.
    **options
        Options of `plan` that say how the result is written, such as ``memory``.

    Returns
    -------
    Plan
        Copies of the tensors of a single member, the mixture.

    Raises
    ------
    ImportError
        If the router needs transformers, and it is not installed.
    ValueError
        If the models do not make a mixture; the message lists all problems.
    """
    architecture, notes = check_mixture(mixture, models)
    base = models[mixture.base_model]
    dtype = float_dtype(mixture.dtype or str(base.layout[EMBEDDING].dtype))
    tensors = MixtureTensors(mixture, models, architecture, dtype=dtype)
    if out is not None and output_format(Path(out)) == "directory":
        options["shard_size"] = options.get("shard_size") or SHARD_SIZE
    planned = as_conversion(
        plan([tensors.checkpoint()], out, dtype=str(dtype), **options)
    )
    if needs_prompts(mixture) and not run_prompts:
        for rows in (rows for layer in tensors.routers for rows in layer.values()):
            rows[:] = np.nan
        notes += [NOT_RUN]
    elif needs_prompts(mixture):
        try:
            notes += _fill_from_prompts(mixture, base, tensors.routers, progress)
        except ValueError as error:
            raise ValueError(at_line(mixture, mixture.line, str(error))) from None
    else:
        for name, rows in (item for r in tensors.routers for item in r.items()):
            shape = rows.shape[0], rows.shape[1]
            rows[:] = random_rows(
                mixture.gate_mode, shape, name=name, seed=mixture.seed
            )
    return replace(planned, notes=(*mixture.notes, *notes, *planned.notes))


def _fill_from_prompts(
    mixture: Mixture,
    base: Checkpoint,
    routers: list[dict[str, Array]],
    progress: Callable[[int], None],
) -> Iterator[str]:
    """Write the rows of all routers, and return notes on them."""
    experts = (*mixture.experts, *mixture.shared_experts)
    rows = prompted_rows(base, experts, mixture.gate_mode, progress)
    for layer, arrays in zip(rows, routers, strict=True):
        sizes = np.cumsum([len(array) for array in arrays.values()])
        for array, part in zip(arrays.values(), np.split(layer, sizes), strict=False):
            array[:] = part
    return similarity_notes(rows[:, : len(mixture.experts)])
