"""Options that choose checkpoints of a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

last = click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help=(
        "Average only the N checkpoints with the highest step. Checkpoints in a "
        "training directory, or that match a pattern, count; those without a step, "
        "such as best.pt, are left out."
    ),
)
best = click.option(
    "--best",
    type=click.IntRange(min=1),
    metavar="N",
    help="Average only the N checkpoints with the best values of --metric.",
)
metric = click.option(
    "--metric",
    metavar="NAME",
    help=(
        "Metric of --best, such as val_loss; ensemble runs lists those of a run.  "
        "[default: that by which the trainer chooses its best checkpoint]"
    ),
)
direction = click.option(
    "--lower-is-better/--higher-is-better",
    "lower_is_better",
    default=None,
    help=(
        "Whether lower values of --metric are better.  [default: as the run says, or "
        "by the name of the metric]"
    ),
)
steps = click.option(
    "--steps",
    metavar="START:STOP[:STRIDE]",
    help=(
        "Average only checkpoints from one step to another, both included, such as "
        "1000:5000 or :5000; with a stride those at START plus its multiples."
    ),
)
epochs = click.option(
    "--epochs",
    metavar="START:STOP[:STRIDE]",
    help="The same by epochs, as the trainer counts them.",
)
tokens = click.option(
    "--tokens",
    metavar="START:STOP[:STRIDE]",
    help="The same by training tokens, such as 100B:600B.",
)
use_averaged_model = click.option(
    "--use-averaged-model",
    is_flag=True,
    help=(
        "Take the first and last of the chosen checkpoints alone, and from the running "
        "averages in them (model_avg of icefall) the mean over all steps between: "
        "--epochs 21:30 is the mean over epochs 22 to 30."
    ),
)
OPTIONS = {
    "last": last,
    "best": best,
    "metric": metric,
    "lower_is_better": direction,
    "steps": steps,
    "epochs": epochs,
    "tokens": tokens,
}


def choosing(*, with_direction: bool = True) -> Callable[[Command], Command]:
    """Decorator that adds the options that choose checkpoints.

    Parameters
    ----------
    with_direction : bool, default=True
        Whether to add the direction of the metric; soup has that of its own score.

    Returns
    -------
    callable function -> function
    """

    def add(command: Command) -> Command:
        for option in reversed(OPTIONS.values()):
            if with_direction or option is not direction:
                command = option(command)
        return command

    return add


def choice_in(
    options: dict[str, Any], *, with_direction: bool = True
) -> dict[str, Any]:
    """Remove the options that choose checkpoints from all options of a command.

    Parameters
    ----------
    options : dict of str to value
        Options of the command; changed in place.
    with_direction : bool, default=True
        As in `choosing`.

    Returns
    -------
    dict of str to value
        Parameters of `ensembles.checkpoints.choose_checkpoints`.
    """
    names = [n for n, o in OPTIONS.items() if with_direction or o is not direction]
    return {name: options.pop(name) for name in names}
