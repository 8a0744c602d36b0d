"""Options shared by the commands that score checkpoints with a command of the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def command(*, required: bool) -> Callable[[Any], Any]:
    """Option ``--score``, the scoring command.

    Parameters
    ----------
    required : bool
        Whether the option must be given.

    Returns
    -------
    callable
        Decorator of a click command.
    """
    return click.option(
        "--score",
        "text",
        required=required,
        metavar="COMMAND",
        help=(
            "Shell command that scores the checkpoint at {}. It must print the score "
            "as its only number, alone in its last line, or with the name score in its "
            "last line or in JSON."
        ),
    )


key = click.option(
    "--score-key",
    "key_of_score",
    metavar="KEY",
    help=(
        "Name of the score in the output of the command: the name before a number, "
        "such as acc_norm, or a dotted path into JSON, where * matches any key."
    ),
)
lower_is_better = click.option(
    "--lower-is-better", is_flag=True, help="Minimize the score: it is a loss or error."
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
        "How to handle a checkpoint that cannot be scored: raise ends the command; "
        "drop continues. A soup then leaves out a member, and counts a combination as "
        "the worst; an image marks the point."
    ),
)
