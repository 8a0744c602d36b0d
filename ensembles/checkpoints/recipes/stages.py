"""Files with several merges, where merges may use the results of others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ensembles.atomic_io import check_absent, temporary_sibling
from ensembles.checkpoints.directories.open import read_layout
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.merging.average import MergeReport, silent, write
from ensembles.checkpoints.planning.destination import output_format
from ensembles.checkpoints.planning.opening import all_problems
from ensembles.checkpoints.planning.plan import Plan
from ensembles.checkpoints.recipes.document import Mixture, Recipe
from ensembles.checkpoints.recipes.merge import plan_recipe, sources_of


@dataclass(frozen=True)
class StagedPlan:
    """Plans of merges that build on each other.

    Parameters
    ----------
    recipes : tuple of Recipe and Mixture
        The merges in the order in which they are carried out.
    plans : tuple of Plan
        Plan of each merge; results of earlier ones are known by their layout alone.
    out : Path
        Path of the result of the last merge.
    options : dict
        Options of the plans.
    """

    recipes: tuple[Recipe | Mixture, ...]
    plans: tuple[Plan, ...]
    out: Path
    options: dict[str, Any]

    @property
    def read_bytes(self) -> int:
        """Bytes that all merges read."""
        return sum(plan.read_bytes for plan in self.plans)


class PendingSource:
    """Stands for the bytes of a tensor that an earlier merge will write: zeros.

    Zeros are no evidence for ties or a common initialization, so that a plan has
    neither.
    """

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with zeros."""
        buffer[:] = bytes(len(buffer))

    def check_unchanged(self) -> None:
        """Do nothing: there is no file yet."""


def plan_recipes(
    recipes: Sequence[Recipe | Mixture], out: str | os.PathLike[str], **options: Any
) -> StagedPlan:
    """Plan merges that may name the results of each other as models.

    Parameters
    ----------
    recipes : sequence of Recipe and Mixture
        The merges of a file, in any order. One of them is used by no other: its result
        is written to ``out``.
    out : path
        Path of the output.
    **options
        Options of `plan`, see `plan_recipe`.

    Returns
    -------
    StagedPlan
        As far as headers allow: tied tensors in results of earlier merges are not
        known yet.

    Raises
    ------
    ValueError
        If a merge uses its own result, several results are used by no other merge, or
        a merge cannot be planned.
    """
    ordered = in_order(recipes)
    _check_folders(ordered[:-1])
    out = Path(out)
    results: dict[str, Checkpoint] = {}
    plans = []
    for recipe in ordered:
        target = out if recipe is ordered[-1] else out.with_name(f".{out.name}.stage")
        planned = plan_recipe(recipe, target, results=results, **options)
        plans.append(planned)
        results[str(recipe.name)] = _stand_in(str(recipe.name), planned)
    n_bytes, n_free = sum(p.write_bytes for p in plans), plans[-1].free_bytes
    if len(plans) > 1 and n_bytes > n_free:
        raise ValueError(
            f"{out} and the results that it is merged from need {n_bytes} bytes, the "
            f"disk has {n_free} left"
        )
    return StagedPlan(tuple(ordered), tuple(plans), out, options)


def write_recipes(
    staged: StagedPlan,
    *,
    keep: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] = silent,
    sha256: bool = False,
) -> MergeReport:
    """Carry out planned merges.

    Results that other merges use are written into a temporary folder beside the
    output, which is removed in the end, and also if a merge fails.

    Parameters
    ----------
    staged : StagedPlan
        The planned merges.
    keep : path or None, default=None
        Folder in which such results are kept, each as a directory with the name of its
        merge; None removes them.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread.
    sha256 : bool, default=False
        Whether to compute the SHA-256 of the weight files of the last merge.

    Returns
    -------
    MergeReport
        Of the last merge.

    Raises
    ------
    ValueError
        If the merges were planned with ``run_prompts=False``, or cannot be carried out.
    """
    if not staged.options.get("run_prompts", True):
        raise ValueError(
            "merges planned with run_prompts=False have no routers; plan them with "
            "run_prompts=True to write them"
        )
    if len(staged.plans) == 1:
        return write(staged.plans[0], progress=progress, sha256=sha256)
    force = bool(staged.options.get("force"))
    check_absent(staged.out, force=force)
    with ExitStack() as closing:
        if keep is None:
            folder = closing.enter_context(temporary_sibling(staged.out, folder=True))
        else:
            folder = Path(keep)
            for recipe in staged.recipes[:-1]:
                check_absent(folder / _folder_name(str(recipe.name)), force=force)
            folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, Checkpoint] = {}
        pairs = zip(staged.recipes[:-1], staged.plans, strict=False)
        for recipe, planned in pairs:
            name = str(recipe.name)
            path = folder / _folder_name(name)
            if keep is None and _is_final(recipe, planned, path, staged.recipes):
                planned = replace(planned, out=path)
            else:
                planned = plan_recipe(recipe, path, results=results, **staged.options)
            write(planned, progress=progress)
            results[name] = replace(read_layout(path, 0), name=name)
        last = plan_recipe(
            staged.recipes[-1], staged.out, results=results, **staged.options
        )
        return write(last, progress=progress, sha256=sha256)


def _is_final(
    recipe: Recipe | Mixture,
    planned: Plan,
    path: Path,
    recipes: Sequence[Recipe | Mixture],
) -> bool:
    """Whether a plan is the same for another path: it uses no result of a merge.

    Ties in a result, and what its samples tell, are known once it is written.
    """
    names = {str(other.name) for other in recipes}
    uses_result = any(name in names for name in _names_in(recipe))
    return not uses_result and planned.format == output_format(path)


def _folder_name(name: str) -> str:
    """Name of the folder for the result of a merge."""
    return re.sub(r"[^\w.-]+", "_", name)


def _check_folders(recipes: Sequence[Recipe | Mixture]) -> None:
    """Raise `ValueError` if results of merges do not have folders of their own."""
    names: dict[str, str] = {".": ".", "..": ".."}
    problems = []
    for recipe in recipes:
        name = str(recipe.name)
        folder = _folder_name(name)
        if folder in names:
            problems.append(
                f"{recipe.path}:{recipe.line}: the merge {name!r} needs another name: "
                f"the folder of its result would be that of {names[folder]!r}"
            )
        names[folder] = name
    if problems:
        raise ValueError(all_problems(problems))


def in_order(recipes: Sequence[Recipe | Mixture]) -> list[Recipe | Mixture]:
    """Merges in an order in which each comes after the ones that it uses.

    Parameters
    ----------
    recipes : sequence of Recipe and Mixture
        The merges of a file.

    Returns
    -------
    list of Recipe
        The last is used by no other.

    Raises
    ------
    ValueError
        If a merge uses its own result, or several results are used by no other merge.
    """
    named = {recipe.name: recipe for recipe in recipes if recipe.name is not None}
    used = {id(r): [named[n] for n in _names_in(r) if n in named] for r in recipes}
    ordered: list[Recipe | Mixture] = []
    for recipe in recipes:
        _visit(recipe, used, ordered, [])
    inner = {id(recipe) for of_one in used.values() for recipe in of_one}
    results = [recipe for recipe in ordered if id(recipe) not in inner]
    if len(results) > 1:
        shown = [
            f"{recipe.path}:{recipe.line}: the merge "
            f"{'without a name' if recipe.name is None else repr(recipe.name)} is used "
            "by no other"
            for recipe in results
        ]
        raise ValueError(
            "one merge of a file must be used by no other, because its result is "
            "written to the output; write the others to files of their own:\n"
            + all_problems(shown)
        )
    return [r for r in ordered if r is not results[0]] + results


def _names_in(recipe: Recipe | Mixture) -> Iterator[str]:
    """Names of models, without the adapters that are added to them."""
    for source in sources_of(recipe):
        yield source.model.partition("+")[0]


def _visit(
    recipe: Recipe | Mixture,
    used: Mapping[int, list[Recipe | Mixture]],
    ordered: list[Recipe | Mixture],
    path: list[Recipe | Mixture],
) -> None:
    """Add a merge after the ones that it uses."""
    if any(recipe is other for other in ordered):
        return
    if any(recipe is other for other in path):
        start = next(i for i, other in enumerate(path) if other is recipe)
        names = [repr(other.name) for other in (*path[start:], recipe)]
        raise ValueError(
            f"{recipe.path}:{recipe.line}: a merge must not use its own result, found "
            f"{' uses '.join(names)}"
        )
    for other in used[id(recipe)]:
        _visit(other, used, ordered, [*path, recipe])
    ordered.append(recipe)


def _stand_in(name: str, planned: Plan) -> Checkpoint:
    """Checkpoint with the layout of a result that is not written yet."""
    first = planned.members[0]
    source = PendingSource()
    layout: dict[str, Tensor] = {}
    start = 0
    for target in planned.targets:
        tensor = Tensor(target.dtype, target.shape, source, start)
        layout[target.name] = tensor
        start += tensor.nbytes
    return Checkpoint(
        name=name,
        format="safetensors",
        path=first.path,
        layout=layout,
        is_directory=first.is_directory,
        parts={part: [t.name for t in of] for part, of in planned.parts.items()},
        files=first.files,
        contents=first.contents,
        config=first.config,
        made_from=planned.members,
    )
