"""``ensemble schedules``: list the schedules, which give weights by training step."""

from __future__ import annotations

import click

from ensembles_cli.console import table
from ensembles_cli.listing.rules import docstring_of, shown_params, source, summary


@click.command("schedules")
def command() -> None:
    """List the schedules: weights from training steps, with parameters and papers.

    Pass a name of the first column to ensemble avg --schedule, with parameters after a
    colon: NAME:PARAMETER=VALUE,... A value without a name is that of the first
    parameter.
    """
    from ensembles.checkpoints.runs.schedules.builtin import SCHEDULES

    rows = []
    for name, schedule in sorted(SCHEDULES.items()):
        text = docstring_of(schedule)
        params = shown_params(schedule.params)
        rows.append([name, summary(text), params, source(text)])
    table(["schedule", "weights", "parameters", "source"], rows)
