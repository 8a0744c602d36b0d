"""``ensemble convert``: write a checkpoint in another format."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import click

from ensembles_cli.carry_out import carry_out
from ensembles_cli.options import checkpoint
from ensembles_cli.options.part import Part, part_of_launcher, part_option
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.average import PlannedAverage


@click.command("convert")
@click.argument("source", metavar="CKPT")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help=(
        "Output path: a file with the suffix of a format, such as .safetensors, .pt, "
        ".npz or .gguf, else a directory."
    ),
)
@checkpoint.dtype
@checkpoint.key
@checkpoint.only_weights
@checkpoint.shard_size
@checkpoint.memory
@checkpoint.threads
@checkpoint.force
@part_option
@checkpoint.plan_only
@checkpoint.as_json
@checkpoint.sha256
def command(
    source: str,
    out: Path,
    part: Part | None,
    plan_only: bool,
    as_json: bool,
    sha256: bool,
    **options: Any,
) -> None:
    """Convert a checkpoint to another format, dtype or shard size.

    Reads all files and directories that ensemble avg reads. Tensors keep their bytes,
    or are rounded once to another dtype; the other files of a directory are copied.
    The checkpoint is streamed: it may be larger than memory.

    \b
    ensemble convert model.pt -o model.safetensors
    ensemble convert model/ -o small/ --dtype bfloat16 --shard-size 2GB
    ensemble convert last.ckpt --key ema.model -o ema/
    """
    from ensembles import checkpoints
    from ensembles.checkpoints.merging.conversion import as_conversion

    raise_file_limit()
    end_cleanly()
    part, part_notes = (part, []) if part else part_of_launcher(os.environ)
    options |= part._asdict()
    plan = as_conversion(checkpoints.plan([source], out, **options))
    member = checkpoints.RunCheckpoint(path=Path(source))
    chosen = checkpoints.ChosenCheckpoints([member], [])
    planned = PlannedAverage(plan, chosen, part_notes)
    write = partial(checkpoints.write, plan, sha256=sha256)
    carry_out(planned, write, verb="converting", plan_only=plan_only, as_json=as_json)
