"""What ``ensemble avg`` says of a plan and of what was done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.printing import as_options, size, table

if TYPE_CHECKING:
    from ensembles.checkpoints import Plan, Report

NOTES_SHOWN = 10


def print_plan(plan: Plan, as_json: bool) -> None:
    """Say what would be done."""
    facts = described(plan)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    rows = [
        [name, weight]
        for name, weight in zip(
            facts["members"], map(str, facts["weights"]), strict=True
        )
    ]
    table(["member", "weight"], rows)
    table(
        ["plan", "value"],
        [
            [
                "rule",
                " ".join(
                    [facts["rule"], *(f"{k}={v}" for k, v in plan.params.items())]
                ),
            ],
            ["output", f"{plan.out}" + "/" * (plan.kind == "directory")],
            ["tensors", str(facts["tensors"])],
            ["dtypes", ", ".join(facts["dtypes"])],
            ["files", ", ".join(facts["files"])],
            ["to read", size(plan.read_bytes)],
            ["to write", f"{size(plan.write_bytes)} of {size(plan.free_bytes)} free"],
            ["buffers", size(plan.peak_bytes)],
            ["threads", str(plan.threads)],
        ],
    )
    print_notes(plan)


def print_report(report: Report, as_json: bool) -> None:
    """Say what was done."""
    plan = report.plan
    if as_json:
        done = {
            "digest": f"xxh3-128:{report.digest}",
            "member_digests": [f"xxh3-128:{digest}" for digest in report.members],
            "special": report.special,
            "sha256": report.sha256,
            "seconds": round(report.seconds, 3),
        }
        click.echo(json.dumps(described(plan) | done, indent=2))
        return
    print_notes(plan)
    speed = (plan.read_bytes + plan.write_bytes) / max(report.seconds, 1e-9)
    click.echo(
        f"wrote {report.out}{'/' * (plan.kind == 'directory')}: {plan.rule.name} of "
        f"{len(plan.members)} members, {len(plan.targets)} tensors, "
        f"{size(plan.write_bytes)} in {report.seconds:.2f} s ({size(int(speed))}/s)"
    )
    click.echo(f"digest xxh3-128:{report.digest}")
    for path, found in report.sha256.items():
        click.echo(f"sha256 {found} {path}")


def print_notes(plan: Plan) -> None:
    """What a user may want to know, to stderr."""
    for note in map(as_options, plan.notes[:NOTES_SHOWN]):
        click.echo(click.style(f"note: {note}", fg="yellow"), err=True)
    if len(plan.notes) > NOTES_SHOWN:
        click.echo(f"note: and {len(plan.notes) - NOTES_SHOWN} more", err=True)


def described(plan: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""
    return {
        "members": [member.name for member in plan.members],
        "weights": plan.weights.tolist(),
        "rule": plan.rule.name,
        "params": plan.params,
        "out": str(plan.out),
        "files": list(plan.parts),
        "tensors": len(plan.targets),
        "dtypes": sorted({str(target.dtype) for target in plan.targets}),
        "read_bytes": plan.read_bytes,
        "write_bytes": plan.write_bytes,
        "free_bytes": plan.free_bytes,
        "peak_bytes": plan.peak_bytes,
        "threads": plan.threads,
        "notes": list(map(as_options, plan.notes)),
    }
