"""``ensemble lora apply``: add an adapter to its base."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ensembles_cli.carry_out import carry_out
from ensembles_cli.options import checkpoint
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.average import PlannedAverage


@click.command("apply")
@click.argument("base", metavar="BASE")
@click.argument("adapter", metavar="ADAPTER")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output path: a directory, or a file with the suffix of a format.",
)
@click.option(
    "--scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor of the updates, of any sign.",
)
@checkpoint.dtype
@checkpoint.key
@checkpoint.shard_size
@checkpoint.memory
@checkpoint.threads
@checkpoint.force
@checkpoint.plan_only
@checkpoint.as_json
@checkpoint.sha256
def apply(
    base: str,
    adapter: str,
    out: Path,
    scale: float,
    plan_only: bool,
    as_json: bool,
    sha256: bool,
    **options: Any,
) -> None:
    """Add a LoRA adapter to its base, and write the model.

    ADAPTER is a directory of PEFT, or a file of kohya or diffusers. Weights are
    computed in float64 and rounded once to the dtype of the base; DoRA is exact too.
    The base must not be quantized.

    \b
    ensemble lora apply base/ adapter/ -o model/
    ensemble lora apply base/ adapter/ --scale 0.5 --dtype bfloat16 -o model/
    """
    from ensembles import checkpoints

    raise_file_limit()
    end_cleanly()
    plan = checkpoints.plan_application(base, adapter, out, scale=scale, **options)
    member = checkpoints.RunCheckpoint(path=Path(base))
    planned = PlannedAverage(plan, checkpoints.ChosenCheckpoints([member], []))
    write = partial(checkpoints.write, plan, sha256=sha256)
    carry_out(planned, write, verb="applying", plan_only=plan_only, as_json=as_json)
