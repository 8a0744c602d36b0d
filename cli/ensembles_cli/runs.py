"""``ensemble runs``: list the checkpoints of training runs."""

from __future__ import annotations

from pathlib import Path

import click

from ensembles_cli.console import table


@click.command("runs")
@click.argument("folders", nargs=-1, required=True, metavar="RUN...", type=Path)
def command(folders: tuple[Path, ...]) -> None:
    """List the checkpoints of training runs, with steps, epochs and metrics.

    \b
    ensemble runs run/
    """
    from ensembles.checkpoints import read_run

    for folder in folders:
        run = read_run(folder)
        click.echo(f"{run.folder}: {run.layout}", err=True)
        names = sorted({name for c in run.checkpoints for name in c.metrics})
        table(
            ["checkpoint", "step", "epoch", *names],
            [
                [c.path.name, str(c.step or ""), str(c.epoch or "")]
                + [f"{c.metrics[n]:g}" if n in c.metrics else "" for n in names]
                for c in run.checkpoints
            ],
        )
