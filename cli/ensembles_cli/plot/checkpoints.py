"""``ensemble plot cosines`` and ``difference``: distances between checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import bar
from ensembles_cli.options import checkpoint, image
from ensembles_cli.plot.images import report_image
from ensembles_cli.process import end_cleanly, raise_file_limit


@click.command("cosines")
@click.argument("members", nargs=-1, required=True, metavar="CKPT...")
@click.option(
    "--base",
    required=True,
    type=click.Path(),
    metavar="CKPT",
    help="Checkpoint that the members were fine-tuned from.",
)
@checkpoint.include
@checkpoint.exclude
@checkpoint.missing
@checkpoint.key
@checkpoint.memory
@checkpoint.threads
@image.out
@image.force
@checkpoint.as_json
def cosines(
    members: tuple[str, ...],
    base: str,
    out: Path,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw the cosine similarities between task vectors as a heat map.

    A task vector is the difference of a fine-tuned checkpoint from its base. The files
    are streamed once. Cosines near 0 mean different directions, near 1 the same
    fine-tune with other seeds.

    \b
    ensemble plot cosines run-*.safetensors --base base.safetensors -o cosines.png
    """
    from ensembles.checkpoints import choose_checkpoints
    from ensembles.reports import TaskVectorDisplay
    from ensembles.reports.displays.figures import check_image

    raise_file_limit()
    end_cleanly()
    check_image(out, force=force)
    paths = choose_checkpoints(members).paths
    with bar("comparing", None) as progress:
        report_image(
            lambda ax: TaskVectorDisplay.from_checkpoints(
                paths, base, progress=progress, ax=ax, **options
            ),
            out,
            force=force,
            as_json=as_json,
        )


@click.command("difference")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@checkpoint.key
@checkpoint.memory
@checkpoint.threads
@image.out
@image.force
@checkpoint.as_json
def difference(
    a: str, b: str, out: Path, force: bool, as_json: bool, **options: Any
) -> None:
    """Draw the relative change of each layer between two checkpoints.

    The image is that of ensemble diff --plot, without its table.

    \b
    ensemble plot difference base/ fine-tuned/ -o change.png
    """
    from ensembles.checkpoints import diff
    from ensembles.reports import DifferenceDisplay
    from ensembles.reports.displays.figures import check_image

    raise_file_limit()
    end_cleanly()
    check_image(out, force=force)
    with bar("comparing", None) as progress:
        changes = diff(a, b, progress=progress, **options)
    report_image(
        lambda ax: DifferenceDisplay.from_difference(changes, ax=ax),
        out,
        force=force,
        as_json=as_json,
    )
