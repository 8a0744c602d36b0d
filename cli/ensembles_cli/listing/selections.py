"""``ensemble selections``: list the selections, which choose weights by a score."""

from __future__ import annotations

import click

from ensembles_cli.console import table
from ensembles_cli.listing.rules import docstring_of, shown_params, source, summary

N_SCORED = 10  # members in the example numbers of scores


@click.command("selections")
def command() -> None:
    """List the ways to choose weights by a score, with their parameters and papers.

    Pass a name of the first column to ensemble soup --select, and a parameter as
    --select-param NAME=VALUE. In Python names have underscores: weights="top_k". The
    scores are the approximate number of scores for 10 members.
    """
    from ensembles.selection import SELECTIONS

    rows = []
    for name, selection in sorted(SELECTIONS.items()):
        text = docstring_of(selection)
        params = shown_params(selection.params)
        n_scores = selection.n_scores
        scores = "-" if n_scores is None else str(n_scores(N_SCORED))
        base = "required" if selection.needs_base else "-"
        shown = name.replace("_", "-")
        rows.append([shown, summary(text), params, scores, base, source(text)])
    table(["selection", "result", "parameters", "scores", "base", "source"], rows)
