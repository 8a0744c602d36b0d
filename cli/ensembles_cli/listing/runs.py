"""``ensemble runs``: list the checkpoints of training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.options import checkpoint, run
from ensembles_cli.reports.runs import ListedRun, print_runs


@click.command("runs")
@click.argument("folders", nargs=-1, required=True, metavar="RUN...", type=Path)
@run.choosing()
@checkpoint.as_json
def command(folders: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """List the checkpoints of training runs, with steps, epochs and metrics.

    Layouts of many trainers are known, such as those of Lightning, the Hugging Face
    Trainer and fairseq; other folders are read by the numbers in their names. Options
    that choose checkpoints, as in ensemble avg, mark the ones that would be averaged.

    \b
    ensemble runs run/
    ensemble runs run/ --best 3 --metric eval_loss
    ensemble runs run/ --steps 1000:5000:500 --json
    """
    from ensembles.checkpoints import choose_checkpoints, read_run

    choice = run.choice_in(options)
    is_chosen = any(value is not None for value in choice.values())
    listed = []
    for folder in folders:
        read = read_run(folder)
        chosen = choose_checkpoints(read, **choice) if is_chosen else None
        listed.append(ListedRun(read, chosen))
    print_runs(listed, as_json)
