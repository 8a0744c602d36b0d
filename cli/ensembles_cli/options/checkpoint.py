"""Options shared by the commands that average checkpoints."""

from __future__ import annotations

import click

from ensembles_cli.options.types import Param, Size

rule_param = click.option(
    "--param",
    "--rule-param",
    "rule_params",
    type=Param(),
    multiple=True,
    help="Parameter of --rule, such as p=5; may be repeated.",
)
include = click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Write only tensors whose name matches, such as '*.bias'; may be repeated.",
)
exclude = click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out tensors whose name matches; may be repeated.",
)
integers = click.option(
    "--integers",
    type=click.Choice(["error", "first", "max"]),
    default="error",
    show_default=True,
    help=(
        "How to merge integer tensors that differ: fail, copy the first, or take the "
        "elementwise maximum."
    ),
)
missing = click.option(
    "--missing",
    type=click.Choice(["error", "skip", "first", "present"]),
    default="error",
    show_default=True,
    help=(
        "How to handle tensors missing from some checkpoints: fail, leave them out, "
        "copy them from the first, or combine them from the checkpoints that have them."
    ),
)
key = click.option(
    "--key",
    multiple=True,
    help=(
        "Key of the state dict in a PyTorch file, such as ema.model; repeat it for the "
        "parts of one model."
    ),
)
only_weights = click.option(
    "--only-weights/--with-training-state",
    default=None,
    help=(
        "Write only tensors, or fail unless the optimizer state and other contents of "
        "the first member are kept.  [default: kept in a PyTorch file if possible, "
        "left out of a directory]"
    ),
)
dtype = click.option(
    "--dtype",
    help=(
        "Float format of the result, such as bfloat16.  [default: that of the members]"
    ),
)
shard_size = click.option(
    "--shard-size",
    type=Size(),
    help=(
        "Maximum size of a weight file in a directory, such as 5GB.  [default: divided "
        "like the first member]"
    ),
)
plan_only = click.option(
    "--plan",
    "plan_only",
    is_flag=True,
    help="Print the plan, from headers and samples of the files; write nothing.",
)
sha256 = click.option(
    "--sha256",
    is_flag=True,
    help=(
        "Print the SHA-256 of the weight files that are read and written; takes longer "
        "than an average itself."
    ),
)
memory = click.option(
    "--memory",
    type=Size(),
    default="64MiB",
    show_default=True,
    help="Memory for buffers.",
)
threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Number of threads.  [default: all processors]",
)
force = click.option(
    "--force",
    is_flag=True,
    help="Replace a file, a checkpoint or an empty directory at the output.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)
