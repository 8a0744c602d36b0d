"""``ensemble inspect``: list the contents of a checkpoint."""

from __future__ import annotations

import click

from ensembles_cli.options import checkpoint
from ensembles_cli.reports.inspection import print_inspection


@click.command("inspect")
@click.argument("path", metavar="CKPT")
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of levels of modules to print.",
)
@click.option(
    "--tensors",
    "all_tensors",
    is_flag=True,
    help="List every tensor with its shape, instead of the modules.",
)
@checkpoint.key
@checkpoint.as_json
def command(
    path: str, depth: int, all_tensors: bool, key: str | None, as_json: bool
) -> None:
    """List the contents of a checkpoint, from its headers alone.

    Prints the tree of modules with tensors, parameters, dtypes and sizes; repeated
    layers are one line. Then everything else: tied tensors, other state dicts, files of
    a directory, metadata. A checkpoint that cannot be averaged is listed with the
    reason.

    \b
    ensemble inspect model.safetensors
    ensemble inspect model/ --depth 5
    ensemble inspect last.ckpt --tensors
    """
    from ensembles.checkpoints import inspect

    print_inspection(inspect(path, key=key), depth, all_tensors, as_json)
