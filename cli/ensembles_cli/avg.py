"""``ensemble avg``: average checkpoints into one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import bar
from ensembles_cli.options import checkpoint
from ensembles_cli.options.part import Part, part_of_launcher, part_option
from ensembles_cli.options.types import (
    Size,
    Weights,
    as_params,
    complete_rule,
    split_weights,
)
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.average import Taken, print_plan, print_report, print_taken


@click.command("avg")
@click.argument("members", nargs=-1, required=True, metavar="CKPT[:WEIGHT]...")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help=(
        "Output path: NAME.safetensors, NAME.pt, or a directory.  "
        "[default: averaged.safetensors, or averaged/ for directories]"
    ),
)
@click.option(
    "--rule",
    default="mean",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_rule,
    help=(
        "Rule that combines the members: mean, median, slerp, …; ensemble rules lists "
        "all rules with their parameters."
    ),
)
@checkpoint.rule_param
@click.option(
    "--base",
    type=click.Path(),
    metavar="CKPT",
    help=(
        "Checkpoint that the members were fine-tuned from, for rules that need one; "
        "ensemble rules says which."
    ),
)
@click.option(
    "--weights",
    type=Weights(),
    help=("Weight of each member, such as .7,.3.  [default: equal]"),
)
@checkpoint.last
@click.option(
    "--dtype",
    help=(
        "Float format of the result, such as bfloat16.  [default: that of the members]"
    ),
)
@checkpoint.integers
@checkpoint.missing
@checkpoint.include
@checkpoint.exclude
@checkpoint.key
@click.option(
    "--shard-size",
    type=Size(),
    help=(
        "Largest size of a weight file in a directory, such as 5GB.  [default: divided "
        "like the first member]"
    ),
)
@checkpoint.memory
@checkpoint.threads
@checkpoint.force
@part_option
@click.option(
    "--plan",
    "plan_only",
    is_flag=True,
    help=("Print the plan, from headers and samples, and write nothing."),
)
@checkpoint.as_json
@click.option(
    "--sha256",
    is_flag=True,
    help=(
        "Compute the SHA-256 of all weight files, of members and result; slower than "
        "the average itself."
    ),
)
def command(
    members: tuple[str, ...],
    out: Path | None,
    weights: list[float] | None,
    last: int | None,
    rule_params: tuple[tuple[str, Any], ...],
    part: Part | None,
    plan_only: bool,
    as_json: bool,
    sha256: bool,
    **options: Any,
) -> None:
    """Average checkpoints into one.

    Members are .safetensors files, PyTorch files (.pt .pth .bin .ckpt), or Hugging
    Face and sentence-transformers directories. Nothing is overwritten without
    --force, and a run that is killed leaves no output that looks finished.

    \b
    ensemble avg a.safetensors b.safetensors
    ensemble avg a.safetensors:.7 b.safetensors:.3 -o soup.safetensors
    ensemble avg 'runs/*/model.safetensors' --rule median
    ensemble avg run/ --last 5 -o averaged.pt
    ensemble avg model-a/ model-b/ --plan
    """
    from ensembles import checkpoints
    from ensembles.atomic_io import check_absent
    from ensembles.checkpoints.directories.discovery import discover_checkpoints

    raise_file_limit()
    end_cleanly()
    named, numbers = split_weights(members, weights, last=last)
    found = discover_checkpoints(named, last=last)
    part, part_notes = (part, []) if part else part_of_launcher(os.environ)
    plan = checkpoints.plan(
        found.paths,
        out or default_out(found.paths),
        weights=numbers,
        rule_params=as_params(rule_params),
        **part._asdict(),
        **options,
    )
    taken = Taken(plan, found, part_notes)
    if plan_only:
        print_plan(taken, as_json)
        return
    if plan.out is not None and part.world_size is None:
        check_absent(plan.out, force=options["force"])
    if not as_json:
        print_taken(taken)
    with bar("averaging", plan.read_bytes) as progress:
        report = checkpoints.write(plan, progress=progress, sha256=sha256)
    print_report(taken, report, as_json)


def default_out(members: list[str]) -> Path:
    """Default output path: a directory if the first member is one, else a file."""
    return Path("averaged" if Path(members[0]).is_dir() else "averaged.safetensors")
