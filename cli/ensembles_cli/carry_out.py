"""End of the commands that write a checkpoint: the plan, or the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ensembles_cli.console import bar
from ensembles_cli.reports.average import (
    PlannedAverage,
    part_of,
    print_members,
    print_plan,
    print_report,
)

if TYPE_CHECKING:
    from ensembles.checkpoints import MergeReport


def carry_out(
    planned: PlannedAverage,
    write: Callable[..., MergeReport],
    *,
    verb: str,
    plan_only: bool,
    as_json: bool,
    read_bytes: int | None = None,
) -> None:
    """Print a plan, or write its result and print the report.

    Parameters
    ----------
    planned : PlannedAverage
        Plan, with its members and notes.
    write : callable
        ``write(progress=callback)`` writes the result and returns its report.
    verb : str
        Label of the progress bar, such as "averaging".
    plan_only : bool
        Whether the plan is printed and nothing is written.
    as_json : bool
        Whether the plan or the report is printed as JSON.
    read_bytes : int or None, default=None
        Bytes that the progress bar counts; None means those of the plan.

    Raises
    ------
    FileExistsError
        If the output exists and the plan must not replace it.
    """
    from ensembles.atomic_io import check_absent

    plan = planned.plan
    if plan_only:
        print_plan(planned, as_json)
        return
    if plan.out is not None and part_of(plan) is None:
        check_absent(Path(plan.out), force=plan.options.force)
    if not as_json:
        print_members(planned)
    n_bytes = plan.read_bytes if read_bytes is None else read_bytes
    with bar(verb, n_bytes) as progress:
        report = write(progress=progress)
    print_report(planned, report, as_json)
