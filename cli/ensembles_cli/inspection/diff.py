"""``ensemble diff``: compare two checkpoints, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import click

from ensembles_cli.console import bar
from ensembles_cli.options import checkpoint
from ensembles_cli.plot.images import write_image
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.difference import print_difference


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    metavar="N",
    help=(
        "Number of components of the tensor names that distinguish modules.  "
        "[default: layers]"
    ),
)
@click.option(
    "--tensors", "all_tensors", is_flag=True, help="Print tensors instead of modules."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="Draw the change of each layer: a path with the suffix .png, .svg or .pdf.",
)
@checkpoint.key
@checkpoint.memory
@checkpoint.threads
@click.option("--force", is_flag=True, help="Replace an existing image.")
@checkpoint.as_json
def command(
    a: str,
    b: str,
    depth: int | None,
    all_tensors: bool,
    plot: Path | None,
    key: str | None,
    memory: int,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compare two checkpoints, tensor by tensor.

    Prints for each layer the relative change (L2 norm of B - A, divided by that of A),
    the cosine similarity and the largest absolute change, the most changed layer first.
    Identical tensors are counted; tensors that only one has are listed.

    \b
    ensemble diff base/ fine-tuned/
    ensemble diff base/ fine-tuned/ --plot change.png
    ensemble diff a.safetensors b.safetensors --tensors
    """
    from ensembles.checkpoints import diff
    from ensembles.checkpoints.directories.open import open_checkpoint
    from ensembles.reports import DifferenceDisplay
    from ensembles.reports.displays.figures import check_image

    raise_file_limit()
    end_cleanly()
    if plot is not None:
        check_image(plot, force=force)
    opened = [
        open_checkpoint(path, place, key=key) for place, path in enumerate((a, b))
    ]
    n_bytes = sum(tensor.nbytes for c in opened for tensor in c.layout.values())
    n_bytes += sum(record.size for c in opened for record in c.records)
    with bar("comparing", n_bytes) as progress:
        found = diff(*opened, memory=memory, threads=threads, progress=progress)
    if plot is not None:
        write_image(
            lambda ax: DifferenceDisplay.from_difference(found, ax=ax),
            plot,
            force=force,
        )
    print_difference(found, depth, all_tensors, as_json)
