"""``ensemble demo``: train two small models and average their checkpoints."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.argument(
    "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo")
)
def command(folder: Path) -> None:
    """Fine-tune two small models and average them, to see what it brings.

    A sentence encoder learns, three times over, to find functions by what they do; a
    small language model learns English. Their checkpoints are averaged by ensemble
    avg, kept in FOLDER, and compared. It takes some minutes, and no network.
    """
    from rich.console import Console

    from ensembles_cli.demo.console import Stage
    from ensembles_cli.demo.run import run

    run(folder, Stage(Console()))
