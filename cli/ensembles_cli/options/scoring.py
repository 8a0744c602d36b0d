"""Options shared by the commands that run a scoring command."""

from __future__ import annotations

import click

score_key = click.option(
    "--score-key",
    "key_of_score",
    metavar="KEY",
    help=(
        "Name of the score in the output of the command: the name before a number, "
        "such as acc_norm, or a dotted path into JSON, where * matches any key."
    ),
)
timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Time limit of one score; then the command and its children are killed.",
)
on_error = click.option(
    "--on-error",
    type=click.Choice(["raise", "drop"]),
    default="raise",
    show_default=True,
    help=(
        "How to handle a checkpoint that cannot be scored: raise ends the run; drop "
        "leaves out a member, and counts a combination as the worst."
    ),
)
