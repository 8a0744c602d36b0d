"""Output of ``ensemble soup``: the soup and its comparison with the members."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import as_options, table
from ensembles_cli.reports.average import as_number, left_out
from ensembles_cli.reports.soup_progress import MOST_NAMED, Told, shown, tell_notes

if TYPE_CHECKING:
    from ensembles.checkpoints import Plan, SoupReport


def print_soup(
    report: SoupReport, told: Told, steps: Sequence[Any], as_json: bool
) -> None:
    """Print the members of the soup and the comparison with the best member."""
    plan, rows = report.written.plan, _members(report, steps)
    noted = [f"{row['member']}: {note}" for row in rows for note in row["notes"]]
    tell_notes(list(dict.fromkeys([*noted, *plan.notes, *report.written.notes])))
    names = left_out(plan)
    if names:
        some = ", ".join(names[:MOST_NAMED])
        more = f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED)
        tell_notes([f"{len(names)} tensors are left out: {some}{more}"])
    if as_json:
        click.echo(json.dumps(described(report, told, rows), indent=2))
        return
    more_keys = [
        key
        for key in ("step", "state_dict")
        if any(row[key] is not None for row in rows)
    ]
    table(
        [
            "in",
            "member",
            "score",
            "weight",
            *(key.replace("_", " ") for key in more_keys),
        ],
        [
            [
                "*" * (row["weight"] > 0),
                row["member"],
                shown(row["score"]),
                f"{row['weight']:.3g}" * (row["weight"] > 0),
                *("" if row[key] is None else str(row[key]) for key in more_keys),
            ]
            for row in rows
        ],
    )
    names, weights = [row["member"] for row in rows], [row["weight"] for row in rows]
    best, alone = report.best
    n_kept = sum(weight > 0 for weight in weights)
    table(
        ["compared", "score"],
        [
            ["uniform soup", shown(report.uniform)],
            [f"soup of {n_kept} in {len(names)}", shown(report.score)],
            [f"best alone, {best}", shown(alone)],
        ],
    )
    click.echo(verdict(report, n_kept))
    click.echo(f"wrote {report.out}; the same file by: {as_average(report)}")


def verdict(report: SoupReport, n_kept: int) -> str:
    """Sentence that compares the score of the soup with that of the best member."""
    best, alone = report.best
    where = " (on the data that it was chosen by; check on held-out data)"
    better = "; all members alike do better still" * report.uniform_is_better
    if report.helps:
        return (
            f"The soup beats {best}, the best alone: {report.score:.6g} against "
            f"{alone:.6g}{better}{where}."
        )
    if n_kept == 1 and report.score == alone:
        return (
            f"No soup that was tried beats {best}: the output is that alone{better}"
            f"{where}."
        )
    if report.score == alone:
        return (
            f"The soup and {best} alone both score {alone:.6g}: use either{better}"
            f"{where}."
        )
    return (
        f"The soup does not beat {best} alone, {report.score:.6g} against "
        f"{alone:.6g}: use that one{where}."
    )


def _members(report: SoupReport, steps: Sequence[Any]) -> list[dict[str, Any]]:
    """JSON values of each member; the base, if any, is first."""
    scores, weights = [*report.scores], [*report.weights]
    numbers = [as_number(step) for step in steps]
    if report.base is not None:
        scores, weights = [report.base_score, *scores], [report.base_weight, *weights]
        numbers = [None, *numbers]
    rows = zip(report.checkpoints, scores, weights, numbers, strict=True)
    return [
        {
            "member": member.name,
            "score": score,
            "weight": weight,
            "step": step,
            "state_dict": member.state_dict,
            "notes": list(map(as_options, member.notes)),
        }
        for member, score, weight, step in rows
    ]


def described(
    report: SoupReport, told: Told, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the soup as JSON values."""
    plan, (best, alone) = report.written.plan, report.best
    n_base = int(report.base is not None)
    return {
        "out": str(report.out),
        "members": rows[n_base:],
        "base": rows[0] if n_base else None,
        "soup": {
            "score": report.score,
            "members": [member.name for member in plan.members],
            "weights": plan.weights.tolist(),
        },
        "uniform": report.uniform,
        "best": {"member": best, "score": alone},
        "beats_best": report.helps,
        "lower_is_better": report.lower_is_better,
        "score_line": told.line,
        "scored": told.n_scored,
        "reused": told.n_reused,
        "journal": str(told.journal.path),
        "left_out": left_out(plan),
        "notes": list(map(as_options, [*plan.notes, *report.written.notes])),
        "average": as_average(report),
        "digest": f"xxh3-128:{report.written.digest}",
    }


def as_average(report: SoupReport) -> str:
    """Command line of ``ensemble avg`` that writes the same file."""
    plan = report.written.plan
    words = [member.name for member in plan.members]
    if (plan.weights != 1).any():
        weights = plan.weights.tolist()
        words = [f"{n}:{w!r}" for n, w in zip(words, weights, strict=True)]
    line = ["ensemble", "avg", *words, *_options(plan), "-o", str(report.out)]
    return shlex.join(line)


def _options(plan: Plan) -> list[str]:
    found = []
    if plan.options.integers != "error":
        found += ["--integers", plan.options.integers]
    if plan.options.missing != "error":
        found += ["--missing", plan.options.missing]
    for name in ("include", "exclude"):
        patterns: Sequence[str] = getattr(plan.options, name)
        found += [word for p in patterns for word in (f"--{name}", p)]
    if plan.options.key is not None:
        found += ["--key", plan.options.key]
    return found
