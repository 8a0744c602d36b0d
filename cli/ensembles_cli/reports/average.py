"""Output of ``ensemble avg``: members, plan and result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import printable, size, table
from ensembles_cli.options.part import Part

if TYPE_CHECKING:
    from ensembles.checkpoints import ChosenCheckpoints, MergeReport, Plan

NOTES_SHOWN = 10
MEMBERS_SHOWN = 12
# Below this size, start-up dominates the time, so that a speed would be misleading.
MIN_TIMED_BYTES = 100_000_000


class PlannedAverage:
    """Plan of an average, with the steps of its members and notes.

    Parameters
    ----------
    plan : Plan
        Plan of the average.
    chosen : ChosenCheckpoints
        Paths and steps of the members, with notes on skipped checkpoints.
    notes : sequence of str, default=()
        Notes of the command, which are printed first.
    """

    def __init__(
        self, plan: Plan, chosen: ChosenCheckpoints, notes: Sequence[str] = ()
    ) -> None:
        from ensembles.checkpoints.merging.relations import (
            averages_among,
            different_initializations,
        )

        self.plan = plan
        self.steps = chosen.steps
        note = different_initializations(plan)
        self.notes = [*notes, *chosen.notes, *([] if note is None else [note])]
        self.notes += [*averages_among(plan), *plan.notes]
        is_single = len(plan.members) == 1 and plan.base is None
        if is_single and not is_single_view(plan) and not plan.is_conversion:
            self.notes.append("there is only one member: nothing is averaged")

    def members(self) -> list[dict[str, Any]]:
        """Return the members as JSON values."""
        from ensembles.checkpoints.planning.tensor_settings import weight_ranges

        weights = [
            low if low == high else [low, high]
            for low, high in weight_ranges(self.plan.targets, self.plan.weights)
        ]
        rows = zip(self.plan.members, weights, self.steps, strict=True)
        return [
            {
                "member": member.name,
                "weight": weight,
                "step": as_number(step),
                "state_dict": member.state_dict,
                "notes": list(member.notes),
            }
            for member, weight, step in rows
        ]

    def described(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        from ensembles.checkpoints.planning.tensor_settings import common_params

        plan = self.plan
        params, varying = common_params(plan.targets, plan.rule_params)
        return {
            "members": self.members(),
            "rule": "conversion" if plan.is_conversion else plan.rule.name,
            "params": params,
            "params_by_tensor": varying,
            "base": None if plan.base is None else {"path": str(plan.base.path)},
            "moments": [{"path": str(moments.path)} for moments in plan.moments],
            "out": str(plan.out),
            "files": list(plan.parts),
            "part": part_of(plan),
            "assigned": plan.assigned,
            "tensors": len(plan.targets),
            "left_out": left_out(plan),
            "integer_tensors": len(_integers(plan)),
            "dtypes": sorted({str(target.dtype) for target in plan.targets}),
            "read_bytes": plan.read_bytes,
            "write_bytes": plan.write_bytes,
            "free_bytes": plan.free_bytes,
            "peak_bytes": plan.peak_bytes,
            "threads": plan.threads,
            "notes": self.notes,
        }


def print_members(planned: PlannedAverage) -> None:
    """Print members and notes to stderr."""
    for line in shortened(list(map(_line, planned.members()))):
        click.echo(printable(line), err=True)
    if planned.plan.base is not None:
        click.echo(printable(planned.plan.base.name), err=True)
    for moments in planned.plan.moments:
        click.echo(printable(f"moments {moments.name}"), err=True)
    print_notes(planned.notes)


def print_plan(planned: PlannedAverage, as_json: bool) -> None:
    """Print the plan and its notes."""
    plan, facts = planned.plan, planned.described()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    keys = ["weight"] + [
        key
        for key in ("step", "state_dict")
        if any(member[key] is not None for member in facts["members"])
    ]
    table(
        ["member", *(key.replace("_", " ") for key in keys)],
        [
            [member["member"], *(_cell(member[key]) for key in keys)]
            for member in facts["members"]
        ],
    )
    table(
        ["plan", "value"],
        [
            *_rule_row(plan),
            *([] if plan.base is None else [["base", str(plan.base.path)]]),
            *(["moments", str(moments.path)] for moments in plan.moments),
            ["output", f"{plan.out}" + "/" * (plan.format == "directory")],
            ["tensors", str(facts["tensors"])],
            *_integer_row(plan),
            ["dtypes", ", ".join(facts["dtypes"])],
            ["files", ", ".join(facts["files"])],
            *_part_row(plan),
            ["to read", size(plan.read_bytes)],
            ["to write", f"{size(plan.write_bytes)} of {size(plan.free_bytes)} free"],
            ["buffers", size(plan.peak_bytes)],
            ["threads", str(plan.threads)],
        ],
    )
    print_notes(planned.notes)


def print_report(planned: PlannedAverage, report: MergeReport, as_json: bool) -> None:
    """Print the result and its digests."""
    plan = report.plan
    if as_json:
        facts = planned.described()
        # Without digests if other processes have not completed the output.
        for member, digest in zip(
            facts["members"], report.member_digests, strict=False
        ):
            member["digest"] = f"xxh3-128:{digest}"
        if report.base_digest is not None:
            facts["base"]["digest"] = f"xxh3-128:{report.base_digest}"
        for entry, digest in zip(
            facts["moments"], report.moments_digests, strict=False
        ):
            entry["digest"] = f"xxh3-128:{digest}"
        facts["notes"] = [*planned.notes, *report.notes]
        result = {
            "digest": f"xxh3-128:{report.digest}" if report.digest else None,
            "missing": list(report.missing),
            "special": report.nonfinite_tensors,
            "sha256": report.sha256,
            "seconds": round(report.seconds, 3),
        }
        click.echo(json.dumps(facts | result, indent=2))
        return
    print_notes(report.notes)
    part = part_of(plan)
    if report.missing:
        click.echo(
            f"part {part} of {printable(str(report.out))}/: {len(report.missing)} of "
            f"{counted(len(plan.parts), 'weight file')} missing yet; the process that "
            "completes the last one writes the directory"
        )
        return
    n_bytes = plan.read_bytes + plan.write_bytes
    speed = f" ({size(int(n_bytes / max(report.seconds, 1e-9)))}/s)"
    out = printable(str(report.out)) + "/" * (plan.format == "directory")
    source = f"{plan.rule.name} of {counted(len(plan.members), 'member')}"
    if is_single_view(plan):
        source = printable(plan.members[0].name)
    elif plan.is_conversion:
        source = f"conversion of {printable(plan.members[0].name)}"
    by = "" if part is None else f" by part {part}"
    click.echo(
        f"wrote {out}: {source}, "
        f"{counted(len(plan.targets), 'tensor')}, {size(plan.write_bytes)}{by} in "
        f"{report.seconds:.2f} s{speed * (n_bytes >= MIN_TIMED_BYTES)}"
    )
    click.echo(f"digest xxh3-128:{report.digest}")
    for path, digest in report.sha256.items():
        click.echo(printable(f"sha256 {digest} {path}"))


def print_notes(notes: Any) -> None:
    """Print notes to stderr, at most `NOTES_SHOWN`."""
    for note in notes[:NOTES_SHOWN]:
        click.echo(click.style(f"note: {printable(note)}", fg="yellow"), err=True)
    if len(notes) > NOTES_SHOWN:
        click.echo(f"note: and {len(notes) - NOTES_SHOWN} more", err=True)


def counted(number: int, noun: str) -> str:
    """Format a count with a noun, in the plural unless it is 1.

    Examples
    --------
    >>> counted(1, "member"), counted(2, "member")
    ('1 member', '2 members')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def shortened(lines: list[str]) -> list[str]:
    """Shorten many lines to the first and the last ones, with a count between them.

    Examples
    --------
    >>> len(shortened(["member"] * 100))
    12
    """
    if len(lines) <= MEMBERS_SHOWN:
        return lines
    head, tail = MEMBERS_SHOWN - 4, 3
    return [
        *lines[:head],
        f"and {len(lines) - head - tail} more members",
        *lines[-tail:],
    ]


def _line(member: dict[str, Any]) -> str:
    """Format a member with its step, weight and state dict."""
    weight = member["weight"]
    shown = f"{weight:g}" if isinstance(weight, float) else _cell(weight)
    facts = [f"weight {shown}"] * (weight != 1)
    if member["step"] is not None:
        facts.insert(0, f"step {member['step']}")
    if member["state_dict"] is not None:
        facts.append(f"state dict {member['state_dict']}")
    return f"member {member['member']}" + f" ({', '.join(facts)})" * bool(facts)


def _cell(value: Any) -> str:
    if isinstance(value, list):  # the smallest and the largest
        return f"{value[0]:g} to {value[1]:g}"
    return "" if value is None else str(value)


def as_number(step: Any) -> int | float | None:
    """Convert a step to a JSON number, int if it is integral."""
    if step is None:
        return None
    return int(step) if step == int(step) else float(step)


def left_out(plan: Plan) -> list[str]:
    """Names of tensors that a member has and the result lacks."""
    written = {target.name for target in plan.targets} | plan.aliases.keys()
    names = dict.fromkeys(name for member in plan.members for name in member.names)
    return [name for name in names if name not in written]


def is_single_view(plan: Plan) -> bool:
    """Whether the result is one member that is computed from other checkpoints."""
    first = plan.members[0]
    is_single = len(plan.members) == 1 and plan.base is None
    return is_single and bool(first.adapters or first.made_from)


def _rule_row(plan: Plan) -> list[list[str]]:
    """Table row of the rule, unless the result equals a single member."""
    if is_single_view(plan) and not plan.rule.weight_sum_matters:
        return []
    return [["rule", "conversion" if plan.is_conversion else plan.rule_text]]


def part_of(plan: Plan) -> str | None:
    """Part of this process, as ``--part`` takes it; None for a process alone."""
    part = Part(plan.options.rank, plan.options.world_size)
    return None if part.world_size is None else str(part)


def _part_row(plan: Plan) -> list[list[str]]:
    """Table row with the weight files of this process, if there are several."""
    part = part_of(plan)
    files = ", ".join(plan.assigned) or "none"
    return [] if part is None else [[f"files of part {part}", files]]


def _integers(plan: Plan) -> list[str]:
    return [t.name for t in plan.targets if t.action == "resolve_integers"]


def _integer_row(plan: Plan) -> list[list[str]]:
    """Table row with the number of integer tensors and their handling, if any."""
    names = _integers(plan)
    if not names:
        return []
    equal = [name for name in names if not name.endswith("num_batches_tracked")]
    policy = plan.options.integers
    handling = {"error": "must be equal", "first": "the first", "max": "the largest"}
    if not equal:
        return [["integers", f"{counted(len(names), 'tensor')}, the largest"]]
    row = f"{counted(len(names), 'tensor')}, {handling[policy]}, such as {equal[0]}"
    return [["integers", row]]
