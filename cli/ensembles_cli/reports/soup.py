"""Output of ``ensemble soup``: the soup and its comparison with the members."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import printable, table
from ensembles_cli.reports.average import as_number, left_out
from ensembles_cli.reports.rule_comparison import CAVEAT, print_rules, rules_as_json
from ensembles_cli.reports.soup_progress import (
    MAX_NAMES,
    ProgressReporter,
    format_score,
    print_notes,
)
from ensembles_cli.reports.sweep import print_sweep

if TYPE_CHECKING:
    from ensembles.checkpoints import Plan, SoupReport
    from ensembles.checkpoints.formats.checkpoint import Checkpoint
    from ensembles.reports import SweepPoint


def print_soup(
    report: SoupReport,
    reporter: ProgressReporter,
    steps: Sequence[Any],
    points: Sequence[SweepPoint],
    as_json: bool,
) -> None:
    """Print a sweep, the members of the soup and the comparison with the best one."""
    plan = report.written.plan
    base, members = _base(report), _members(report, steps)
    rows = members if base is None else [base, *members]
    notes = [f"{row['member']}: {note}" for row in rows for note in row["notes"]]
    print_notes(list(dict.fromkeys([*notes, *plan.notes, *report.written.notes])))
    names = left_out(plan)
    if names:
        listed = ", ".join(names[:MAX_NAMES])
        rest = f" and {len(names) - MAX_NAMES} more" * (len(names) > MAX_NAMES)
        print_notes([f"{len(names)} tensors are left out: {listed}{rest}"])
    if as_json:
        facts = to_dict(report, reporter, base, members)
        if points:
            facts["sweep"] = [point._asdict() for point in points]
        click.echo(json.dumps(facts, indent=2))
        return
    if points:
        print_sweep(points)
    optional = [
        key
        for key in ("step", "state_dict")
        if any(row[key] is not None for row in rows)
    ]
    table(
        ["in", "member", "score", "weight", *(k.replace("_", " ") for k in optional)],
        [
            [
                "*" * (row["weight"] > 0),
                row["member"],
                format_score(row["score"]),
                f"{row['weight']:.3g}" * (row["weight"] > 0),
                *("" if row[key] is None else str(row[key]) for key in optional),
            ]
            for row in rows
        ],
    )
    if report.compares_rules:
        print_rules(report)
    else:
        _print_comparison(report, rows)
    same = f"wrote {report.out}; to write the same file: {as_average(report)}"
    click.echo(printable(same))


def _print_comparison(report: SoupReport, rows: Sequence[dict[str, Any]]) -> None:
    """Print the comparison with the best member and the average of all."""
    best, best_score = report.best
    n_kept = sum(row["weight"] > 0 for row in rows)
    table(
        ["compared", "score"],
        [
            ["uniform soup", format_score(report.uniform_score)],
            [f"soup of {n_kept} in {len(rows)}", format_score(report.score)],
            [f"best single member, {best}", format_score(best_score)],
        ],
    )
    click.echo(printable(summary(report, n_kept)))


def summary(report: SoupReport, n_kept: int) -> str:
    """Sentence that compares the score of the soup with that of the best member."""
    best, best_score = report.best
    better = "; the uniform soup scores better" * report.uniform_is_better
    if report.beats_best_member:
        return (
            f"The soup beats the best single member, {best}: {report.score:.6g} "
            f"against {best_score:.6g}{better}{CAVEAT}."
        )
    if n_kept == 1 and report.score == best_score:
        return (
            f"No other combination beat {best}: the output is that member alone{better}"
            f"{CAVEAT}."
        )
    if report.score == best_score:
        return (
            f"The soup and {best} alone both score {best_score:.6g}: use either{better}"
            f"{CAVEAT}."
        )
    return (
        f"The soup does not beat {best} alone, {report.score:.6g} against "
        f"{best_score:.6g}: use that member{CAVEAT}."
    )


def _members(report: SoupReport, steps: Sequence[Any]) -> list[dict[str, Any]]:
    """JSON values of each member."""
    rows = zip(report.checkpoints, report.scores, report.weights, steps, strict=True)
    return [_row(member, score, weight, step) for member, score, weight, step in rows]


def _base(report: SoupReport) -> dict[str, Any] | None:
    """JSON values of the base; None without a base."""
    if report.base_checkpoint is None:
        return None
    return _row(report.base_checkpoint, report.base_score, report.base_weight, None)


def _row(
    member: Checkpoint, score: float | None, weight: float, step: Any
) -> dict[str, Any]:
    return {
        "member": member.name,
        "score": score,
        "weight": weight,
        "step": as_number(step),
        "state_dict": member.state_dict,
        "notes": list(member.notes),
    }


def to_dict(
    report: SoupReport,
    reporter: ProgressReporter,
    base: dict[str, Any] | None,
    members: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the soup as JSON values."""
    plan, (best, best_score) = report.written.plan, report.best
    return {
        "out": str(report.out),
        "members": members,
        "base": base,
        "soup": {
            "score": report.score,
            "members": [member.name for member in plan.members],
            "weights": plan.weights.tolist(),
            "rule": plan.rule.name,
            "params": dict(plan.rule_params),
        },
        "uniform": report.uniform_score,
        "best": {"member": best, "score": best_score},
        "beats_best": report.beats_best_member,
        "lower_is_better": report.lower_is_better,
        "score_line": reporter.line,
        "scored": reporter.n_scored,
        "reused": reporter.n_reused,
        "journal": str(reporter.journal.path),
        "rules": rules_as_json(report),
        "left_out": left_out(plan),
        "notes": [*plan.notes, *report.written.notes],
        "average": as_average(report),
        "digest": f"xxh3-128:{report.written.digest}",
    }


def as_average(report: SoupReport) -> str:
    """Command line of ``ensemble avg`` that writes the same file."""
    plan = report.written.plan
    arguments = [member.name for member in plan.members]
    if (plan.weights != 1).any():
        weights = plan.weights.tolist()
        arguments = [f"{n}:{w!r}" for n, w in zip(arguments, weights, strict=True)]
    line = ["ensemble", "avg", *arguments, *_options(plan), "-o", str(report.out)]
    return shlex.join(line)


def _options(plan: Plan) -> list[str]:
    arguments = []
    if plan.base is not None:
        arguments += ["--base", str(plan.base.path)]
    if plan.rule.name != "mean":
        arguments += ["--rule", plan.rule.name]
    for name, value in plan.rule_params.items():
        arguments += ["--param", f"{name}={json.dumps(value)}"]
    if plan.options.integers != "error":
        arguments += ["--integers", plan.options.integers]
    if plan.options.missing != "error":
        arguments += ["--missing", plan.options.missing]
    for pattern in plan.options.include:
        arguments += ["--include", pattern]
    for pattern in plan.options.exclude:
        arguments += ["--exclude", pattern]
    for key in plan.options.key or ():
        arguments += ["--key", key]
    return arguments
