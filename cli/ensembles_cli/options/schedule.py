"""Option ``--schedule``: weights of the members from their training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ensembles_cli.options.types import Param

if TYPE_CHECKING:
    from ensembles.checkpoints import ChosenCheckpoints

    ScheduleParam = click.ParamType["ScheduleChoice"]
else:  # ParamType is generic since click 8.4
    ScheduleParam = click.ParamType


class ScheduleChoice(NamedTuple):
    """A schedule with parameters, and the text that names them."""

    text: str
    name: str
    params: dict[str, Any]

    def weights(self, positions: Any) -> Any:
        """Weights of checkpoints at these positions."""
        from ensembles.checkpoints.runs.schedules.builtin import schedule_weights

        return schedule_weights(positions, self.name, **self.params)


class ScheduleType(ScheduleParam):
    """Name of a schedule and its parameters, such as ema:half-life=1000."""

    name = "name[:value,…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ScheduleChoice:
        """Parse a name and parameters; a value without a name is of the first one."""
        from ensembles.checkpoints.runs.schedules.builtin import SCHEDULES
        from ensembles.registry import lookup

        if isinstance(value, ScheduleChoice):
            return value
        name, _, text = value.partition(":")
        try:
            schedule = lookup(SCHEDULES, name.replace("-", "_"))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        params: dict[str, Any] = {}
        for index, part in enumerate(text.split(",") if text else []):
            first = f"{next(iter(schedule.params))}={part}"
            named = part if index or "=" in part else first
            key, number = Param().convert(named, param, ctx)
            key = key.strip().replace("-", "_")
            if key in params:
                self.fail(f"{key} must be given once, found {value!r}", param, ctx)
            params[key] = number
        try:
            schedule.check_names(params)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return ScheduleChoice(value, schedule.name, params)


def scheduled(
    chosen: ChosenCheckpoints, schedule: ScheduleChoice
) -> tuple[ChosenCheckpoints, list[float] | None]:
    """Members with a weight of a schedule, and their weights.

    Parameters
    ----------
    chosen : ChosenCheckpoints
        Members in the order of training.
    schedule : ScheduleChoice
        Schedule.

    Returns
    -------
    chosen : ChosenCheckpoints
        Members with a weight other than 0, and a note if there are others.
    weights : list of float or None
        Their weights; None if they are equal, which is the plain mean.

    Raises
    ------
    click.UsageError
        If a step is unknown.
    ValueError
        If a parameter of the schedule is invalid.
    """
    for checkpoint, step in zip(chosen.checkpoints, chosen.steps, strict=True):
        if step is None:
            raise click.UsageError(
                "--schedule needs the training step of each member, found "
                f"{checkpoint.path}, whose name has none; name the checkpoints of a "
                "run, or pass --weights"
            )
    weights = schedule.weights(chosen.steps).tolist()
    kept = [index for index, weight in enumerate(weights) if weight > 0]
    notes = list(chosen.notes)
    if len(kept) < len(weights):
        notes.append(
            f"schedule {schedule.text} averages {len(kept)} of {len(weights)} members; "
            "the others have the weight 0"
        )
    checkpoints = [chosen.checkpoints[index] for index in kept]
    kept_weights = [weights[index] for index in kept]
    are_equal = len(set(kept_weights)) == 1
    members = chosen._replace(checkpoints=checkpoints, notes=notes)
    return members, None if are_equal else kept_weights


schedule_option = click.option(
    "--schedule",
    type=ScheduleType(),
    help=(
        "Weights from the training steps, such as uniform:5, lawa:5, ema:0.999, "
        "ema:half-life=1000, wsm:linear, wsm:minus-sqrt or power:sigma-rel=0.1; "
        "ensemble schedules describes them."
    ),
)
