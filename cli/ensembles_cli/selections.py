"""``ensemble selections``: list the methods that select weights by a score."""

from __future__ import annotations

import click

from ensembles_cli.console import table
from ensembles_cli.rules import described, shown_params, source, summary


@click.command("selections")
def command() -> None:
    """List the ways to choose weights by a score, with their parameters and papers.

    The name in the first column is what ensemble soup --select takes; a parameter is
    passed as --select-param NAME=VALUE. In Python the name has underscores:
    weights="top_k".
    """
    from ensembles.selection import SELECTIONS

    rows = []
    for name, selection in sorted(SELECTIONS.items()):
        text = described(selection)
        params = shown_params(selection.params)
        rows.append([name.replace("_", "-"), summary(text), params, source(text)])
    table(["selection", "what it is", "parameters", "source"], rows)
