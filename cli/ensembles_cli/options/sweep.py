"""Options ``--sweep``, ``--schedule`` and ``--plot`` of ``ensemble soup``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import click

from ensembles_cli.options.schedule import ScheduleChoice, ScheduleType

FRACTIONS = (8, 4, 2)  # of the members, and of their steps, in the default schedules


class SelectionChoice(NamedTuple):
    """Selection that ``--select`` or ``--sweep`` names.

    Parameters
    ----------
    name : str or None
        Name of the selection; None is the default of `make_soup`.
    params : dict
        Its parameters.
    labels : list of str, default=[]
        Text of each schedule in a sweep of schedules, else empty.
    """

    name: str | None
    params: dict[str, Any]
    labels: list[str] = []  # noqa: RUF012  # never changed


def selection_of(
    select: str | None,
    sweep: str | None,
    schedules: Sequence[ScheduleChoice],
    steps: Sequence[Decimal | None],
    params: dict[str, Any],
) -> SelectionChoice:
    """Selection of a sweep, or that of ``--select``.

    Parameters
    ----------
    select : str or None
        Value of ``--select``; None if not passed.
    sweep : {"windows", "schedules"} or None
        Value of ``--sweep``; None if not passed.
    schedules : sequence of ScheduleChoice
        Values of ``--schedule``; empty compares the default ones.
    steps : sequence of Decimal or None
        Step of each member, sorted for a sweep.
    params : dict
        Parameters of ``--select-param``.

    Returns
    -------
    SelectionChoice

    Raises
    ------
    click.UsageError
        If the sweep needs steps, and one is unknown.
    """
    if sweep is None:
        name = None if select is None else select.replace("-", "_")
        return SelectionChoice(name, params)
    known = [float(step) for step in steps if step is not None]
    if len(known) < len(steps):
        raise click.UsageError(
            "--sweep needs the training step of each member, and the name of a member "
            "has none; name the checkpoints of a run"
        )
    if sweep == "windows":
        return SelectionChoice("windows", params)
    choices = list(schedules) or [
        ScheduleType().convert(text, None, None) for text in default_schedules(known)
    ]
    weights = [choice.weights(steps) for choice in choices]
    labels = [choice.text for choice in choices]
    return SelectionChoice("listed", {**params, "candidates": weights}, labels)


def default_schedules(steps: Sequence[float]) -> list[str]:
    """Schedules to compare if none are given.

    Parameters
    ----------
    steps : sequence of float
        Step of each member, in increasing order.

    Returns
    -------
    list of str
        Texts as in ``--schedule``, without repetitions.

    Examples
    --------
    >>> default_schedules([0, 100, 200, 300])[:3]
    ['uniform:1', 'uniform:2', 'uniform:4']
    """
    span = (steps[-1] - steps[0]) or 1.0
    numbers = [max(len(steps) // fraction, 1) for fraction in FRACTIONS]
    texts = [f"uniform:{number}" for number in (*numbers, len(steps))]
    texts += [f"ema:half-life={span / fraction:g}" for fraction in FRACTIONS]
    texts += ["wsm:cosine", "wsm:minus-sqrt"]  # linear is uniform, or nearly so
    if steps[0] >= 0 and steps[-1] > 0:
        texts += [f"power:sigma-rel={value:g}" for value in (0.05, 0.1, 0.15)]
    return list(dict.fromkeys(texts))


def check_sweep(
    sweep: str | None,
    schedules: Sequence[ScheduleChoice],
    plot: Path | None,
    select: str | None,
    options: Mapping[str, Any],
) -> None:
    """Raise if the options of a sweep contradict each other.

    Parameters
    ----------
    sweep : {"windows", "schedules"} or None
        Value of ``--sweep``; None if not passed.
    schedules : sequence of ScheduleChoice
        Values of ``--schedule``.
    plot : Path or None
        Value of ``--plot``; None if not passed.
    select : str or None
        Value of ``--select``; None if not passed.
    options : mapping of str to value
        Other options: ``rule``, ``on_error`` and ``force``.

    Raises
    ------
    click.UsageError
        If an option needs another one, or cannot be combined with it.
    FileExistsError, ImportError, ValueError
        If the picture cannot be written.
    """
    if sweep is None and (schedules or plot is not None):
        raise click.UsageError("--schedule and --plot need --sweep")
    if sweep is not None and select is not None:
        raise click.UsageError("pass --sweep or --select, not both")
    if sweep is not None and "," in options["rule"]:
        raise click.UsageError(f"--sweep needs one --rule, found {options['rule']}")
    if sweep == "windows" and schedules:
        raise click.UsageError("--schedule needs --sweep schedules")
    if sweep == "schedules" and options["on_error"] != "raise":
        raise click.UsageError(
            "--sweep schedules needs a score of each member: leave out --on-error"
        )
    if plot is not None:
        from ensembles.reports.displays.figures import check_image

        check_image(plot, force=options["force"])


sweep_option = click.option(
    "--sweep",
    type=click.Choice(["windows", "schedules"]),
    help=(
        "Score averages along a training run: windows are the last checkpoint, the "
        "last two, and so on (with --select-param length=5 all windows of five); "
        "schedules are those of --schedule."
    ),
)
schedules_option = click.option(
    "--schedule",
    "schedules",
    type=ScheduleType(),
    multiple=True,
    help=(
        "Schedule for --sweep schedules, as in ensemble avg; may be repeated.  "
        "[default: several of each kind]"
    ),
)
plot_option = click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="Draw the scores of --sweep: a path with the suffix .png, .svg or .pdf.",
)
