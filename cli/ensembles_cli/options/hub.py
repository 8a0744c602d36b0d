"""Options of ``ensemble blend --hub``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from ensembles_cli.options.types import Param, as_params

OWN = ("round_name", "model_id", "exclude", "where", "n_rounds")
# Other options of the command that apply to hubs.
SHARED = (
    *("hub", "members", "target", "rule", "rule_params", "weights", "weights_params"),
    *("crossing", "out", "force", "as_json"),
)


class HubOptions(NamedTuple):
    """Options of a blend in a hub.

    Parameters
    ----------
    path : Path
        Folder of the hub.
    round_name : str or None
        Round to blend; None is the newest.
    model_id : str or None
        Name of the blend in the hub; None writes nothing.
    exclude : tuple of str
        Models to leave out.
    where : dict
        Values of task IDs.
    n_rounds : int
        Number of earlier rounds to learn from.
    """

    path: Path
    round_name: str | None
    model_id: str | None
    exclude: tuple[str, ...]
    where: dict[str, Any]
    n_rounds: int


DECORATORS = (
    click.option(
        "--hub",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help=(
            "Forecast hub in hubverse's layout: blend a round of its models, with "
            "weights learned from earlier rounds. FILE is then the name of a model."
        ),
    ),
    click.option(
        "--round",
        "round_name",
        metavar="DATE",
        help="With --hub: round to blend.  [default: the newest]",
    ),
    click.option(
        "--model-id",
        metavar="TEAM-MODEL",
        help="With --hub: name of the blend, to write it to its folder in the hub.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="MODEL",
        help="With --hub: model to leave out; may be repeated.",
    ),
    click.option(
        "--where",
        type=Param(),
        multiple=True,
        help=(
            "With --hub: value of a task ID, such as target='wk inc flu hosp'; may be "
            "repeated.  [default: the only target with quantiles]"
        ),
    ),
    click.option(
        "--n-rounds",
        type=click.IntRange(min=0),
        default=20,
        show_default=True,
        help="With --hub: number of earlier rounds to learn the weights from.",
    ),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command.

    Parameters
    ----------
    command : callable
        Function of the command.

    Returns
    -------
    callable
    """
    for decorate in reversed(DECORATORS):
        command = decorate(command)
    return command


def take_options(values: dict[str, Any]) -> HubOptions | None:
    """Remove the options of hubs from those of the command.

    Parameters
    ----------
    values : dict
        Values of options by name; the ones of hubs are removed.

    Returns
    -------
    HubOptions or None
        None without ``--hub``.

    Raises
    ------
    click.UsageError
        If an option does not apply, or a required one is missing.
    """
    path, taken = values.pop("hub"), {name: values.pop(name) for name in OWN}
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            spelling = parameter.opts[0]
            if path is None and name in OWN:
                raise click.UsageError(f"{spelling} requires --hub")
            if path is not None and name not in (*OWN, *SHARED):
                raise click.UsageError(f"{spelling} does not apply with --hub")
    if path is None:
        if not context.params["members"]:
            raise click.UsageError("missing argument FILE...")
        return None
    taken["where"] = as_params(taken["where"])
    return HubOptions(path, **taken)
