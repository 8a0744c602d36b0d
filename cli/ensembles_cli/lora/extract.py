"""``ensemble lora extract``: an adapter from a fine-tuned model and its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.options import checkpoint
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.extraction import print_extraction


@click.command("extract")
@click.argument("tuned", metavar="TUNED")
@click.argument("base", metavar="BASE")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output path: a directory, which PEFT loads.",
)
@click.option(
    "--rank", type=click.IntRange(min=1), help="Largest rank of a module, such as 32."
)
@click.option(
    "--energy",
    type=float,
    metavar="FRACTION",
    help=(
        "Fraction of the sum of squares of each change that is kept with the smallest "
        "rank, such as .99."
    ),
)
@checkpoint.include
@checkpoint.exclude
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="Float format of the factors.",
)
@checkpoint.threads
@checkpoint.force
@checkpoint.as_json
def extract(tuned: str, base: str, out: Path, as_json: bool, **options: Any) -> None:
    """Extract a LoRA adapter from a fine-tuned model and its base.

    The change of each linear layer is approximated with the largest singular values.
    Other tensors that differ, such as norms and embeddings, are stored whole; --exclude
    leaves them out. For each module the error is printed: that of the factors as they
    are stored, relative to the change.

    \b
    ensemble lora extract fine-tuned/ base/ -o adapter/ --rank 32
    ensemble lora extract fine-tuned/ base/ -o adapter/ --energy .99 --exclude '*norm*'
    """
    from ensembles import checkpoints

    raise_file_limit()
    end_cleanly()
    report = checkpoints.extract_adapter(tuned, base, out, **options)
    print_extraction(report, as_json)
