"""``ensemble merge``: carry out a recipe in mergekit's format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ensembles_cli.carry_out import carry_out
from ensembles_cli.console import bar
from ensembles_cli.options import checkpoint
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.average import PlannedAverage


@click.command("merge")
@click.argument("recipe", metavar="RECIPE.yml", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output path: a directory, or a file with the suffix of a format.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help=(
        "Folder for the results of merges that other merges of the file use.  "
        "[default: removed in the end]"
    ),
)
@checkpoint.integers
@checkpoint.missing
@checkpoint.shard_size
@checkpoint.memory
@checkpoint.threads
@checkpoint.force
@checkpoint.plan_only
@checkpoint.as_json
@checkpoint.sha256
def command(
    recipe: Path,
    out: Path,
    keep: Path | None,
    plan_only: bool,
    as_json: bool,
    sha256: bool,
    **options: Any,
) -> None:
    """Merge models as a recipe in mergekit's YAML format describes it.

    Reads the files of mergekit-yaml, mergekit-multimerge and mergekit-moe as they are,
    and names of rules as merge methods. All problems are reported with their lines,
    before any tensor is read. Models are paths, or names in the local cache of the
    Hugging Face Hub. If a file has several merges, those with a name are models of the
    others, and the last result is written to OUT.

    \b
    ensemble merge recipe.yml -o merged/
    ensemble merge recipe.yml -o merged/ --plan
    ensemble merge stages.yml -o merged/ --keep stages/
    """
    from ensembles import checkpoints

    if options["missing"] == "error":
        del options["missing"]  # the recipe decides
    raise_file_limit()
    end_cleanly()
    recipes = checkpoints.read_recipes(recipe)
    with bar("planning", None) as progress:  # a mixture's base runs on its prompts
        options |= {"progress": progress, "run_prompts": not plan_only}
        staged = checkpoints.plan_recipes(recipes, out, **options)
    plan = staged.plans[-1]
    members = [
        checkpoints.RunCheckpoint(path=Path(member.name)) for member in plan.members
    ]
    before = [str(merge.name) for merge in staged.recipes[:-1]]
    notes = [f"merged before the result: {', '.join(before)}"] * bool(before)
    planned = PlannedAverage(plan, checkpoints.ChosenCheckpoints(members, []), notes)
    write = partial(checkpoints.write_recipes, staged, keep=keep, sha256=sha256)
    carry_out(
        planned,
        write,
        verb="merging",
        plan_only=plan_only,
        as_json=as_json,
        read_bytes=staged.read_bytes,
    )
