"""``ensemble demo``: train two small models and average their checkpoints."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.argument(
    "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo")
)
def command(folder: Path) -> None:
    """Train two small models, and average their checkpoints.

    Fine-tunes a sentence encoder three times to find functions by their descriptions,
    and trains a small language model. Averages their checkpoints by ensemble avg, and
    compares the averages with the single checkpoints. Files are kept in FOLDER. The
    demo takes some minutes and does not use the network.
    """
    from rich.console import Console

    from ensembles_cli.demo.console import DemoConsole
    from ensembles_cli.demo.run import run

    run(folder, DemoConsole(Console()))
