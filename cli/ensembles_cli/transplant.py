"""``ensemble transplant``: give a model the tokenizer of another one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ensembles_cli.carry_out import carry_out
from ensembles_cli.options import checkpoint
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.average import PlannedAverage


@click.command("transplant")
@click.argument("model")
@click.argument("donor")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output path, a directory.",
)
@click.option(
    "--method",
    type=click.Choice(["omp", "mean", "zero"]),
    default="omp",
    show_default=True,
    help=(
        "Embeddings of new tokens: a weighted sum of the embeddings of shared tokens, "
        "whose weights approximate the donor's embedding (omp: orthogonal matching "
        "pursuit); the mean of all embeddings; or zeros."
    ),
)
@click.option(
    "-k",
    "--k",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Number of shared tokens in a sum of --method omp.",
)
@checkpoint.dtype
@checkpoint.shard_size
@checkpoint.memory
@checkpoint.threads
@checkpoint.force
@checkpoint.plan_only
@checkpoint.as_json
@checkpoint.sha256
def command(
    model: str,
    donor: str,
    out: Path,
    method: Any,
    k: int,
    plan_only: bool,
    as_json: bool,
    sha256: bool,
    **options: Any,
) -> None:
    """Give MODEL the tokenizer of DONOR.

    Tokens that both have keep the embeddings of MODEL; those of new tokens are
    estimated. Train the result further, or test it, before it is used.

    \b
    ensemble transplant llama/ qwen/ -o llama-with-qwen-tokens/
    ensemble transplant llama/ qwen/ -o out/ --method mean --plan
    """
    from ensembles import checkpoints
    from ensembles.checkpoints.merging.conversion import as_conversion

    raise_file_limit()
    end_cleanly()
    view = checkpoints.transplant_tokenizer(model, donor, method=method, k=k)
    plan = as_conversion(checkpoints.plan([view], out, **options))
    member = checkpoints.RunCheckpoint(path=Path(model))
    planned = PlannedAverage(plan, checkpoints.ChosenCheckpoints([member], []), [])
    write = partial(checkpoints.write, plan, sha256=sha256)
    carry_out(planned, write, verb="writing", plan_only=plan_only, as_json=as_json)
