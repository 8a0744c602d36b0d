"""Merges of adapters by ``ensemble avg``: the merge itself, its plan and its result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import bar, printable, size, table
from ensembles_cli.reports.average import as_number, counted, print_notes, shortened

if TYPE_CHECKING:
    from ensembles.checkpoints import AdapterPlan, AdapterReport, ChosenCheckpoints

SHOWN = 5  # modules that lose most
# Options of checkpoints that have no meaning for adapters, with their defaults.
UNUSED: dict[str, Any] = {
    **{"moments": (), "integers": "error", "missing": "error", "include": ()},
    **{"exclude": (), "key": (), "shard_size": None, "only_weights": None},
    **{"part": None, "sha256": False, "memory": 64 << 20},
}


def merge_adapters(
    chosen: ChosenCheckpoints,
    out: Path,
    weights: Sequence[float | tuple[float, ...]] | None,
    options: Mapping[str, Any],
    *,
    plan_only: bool,
    as_json: bool,
) -> None:
    """Merge adapters and print the result, or print the plan.

    Parameters
    ----------
    chosen : ChosenCheckpoints
        Paths of the adapters, with notes on skipped ones.
    out : Path
        Path of the output.
    weights : sequence of float or None
        Weight of each adapter; None gives all the same. Weights by depth are rejected.
    options : mapping of str to value
        Other options of the command: the rule, its parameters, ``rank``, ``energy``,
        ``dtype``, ``threads`` and ``force``, and options of checkpoints, which must
        have their defaults.
    plan_only : bool
        Whether to print the plan and write nothing.
    as_json : bool
        Whether to print JSON.
    """
    from ensembles.atomic_io import check_absent
    from ensembles.checkpoints import plan_adapters, write_adapters

    used = [name for name, value in UNUSED.items() if options.get(name) != value]
    if used:
        raise click.UsageError(
            f"adapters are merged whole: leave out --{used[0].replace('_', '-')}"
        )
    if any(isinstance(weight, tuple) for weight in weights or ()):
        raise click.UsageError("adapters have one weight each, not one for each layer")
    names = ("rule", "rule_params", "rank", "energy", "dtype", "threads", "force")
    plan = plan_adapters(
        chosen.paths, out, weights=weights, **{name: options[name] for name in names}
    )
    notes = [*chosen.notes, *plan.notes]
    if plan_only:
        _print_plan(plan, chosen, notes, as_json)
        return
    check_absent(plan.out, force=plan.force)
    if not as_json:
        for line in shortened(_member_lines(plan, chosen)):
            click.echo(printable(line), err=True)
        print_notes(notes)
    with bar("merging", plan.read_bytes) as progress:
        report = write_adapters(plan, progress=progress)
    _print_report(report, chosen, notes, as_json)


def _described(
    plan: AdapterPlan, chosen: ChosenCheckpoints, notes: Sequence[str]
) -> dict[str, Any]:
    """Return the plan as JSON values."""
    rows = zip(
        plan.members,
        plan.rule.weights.tolist(),
        plan.rule.coefficients.tolist(),
        chosen.steps,
        strict=True,
    )
    return {
        "members": [
            {
                "member": member.name,
                "weight": weight,
                "coefficient": coefficient,
                "step": as_number(step),
                "naming": member.naming,
            }
            for member, weight, coefficient, step in rows
        ],
        "rule": plan.rule.name,
        "params": plan.rule.params,
        "out": str(plan.out),
        "naming": plan.naming,
        "rank": plan.rank,
        "energy": plan.energy,
        "modules": len(plan.sums),
        "replaced_tensors": len(plan.replaced),
        "read_bytes": plan.read_bytes,
        "largest_write_bytes": plan.write_bytes,
        "free_bytes": plan.free_bytes,
        "threads": plan.threads,
        "notes": list(notes),
    }


def _member_lines(plan: AdapterPlan, chosen: ChosenCheckpoints) -> list[str]:
    lines = []
    for member, weight, step in zip(
        plan.members, plan.rule.weights.tolist(), chosen.steps, strict=True
    ):
        facts = [f"step {step}"] * (step is not None)
        facts += [f"weight {weight:g}"] * (weight != 1)
        facts.append(f"rank {_ranks(u.rank for u in member.updates.values())}")
        lines.append(f"adapter {member.name} ({', '.join(facts)})")
    return lines


def _print_plan(
    plan: AdapterPlan, chosen: ChosenCheckpoints, notes: Sequence[str], as_json: bool
) -> None:
    """Print the plan and its notes."""
    if as_json:
        click.echo(json.dumps(_described(plan, chosen, notes), indent=2))
        return
    for line in _member_lines(plan, chosen):
        click.echo(printable(line))
    rank = f"at most {_ranks(module.largest_rank for module in plan.sums)}"
    if plan.is_exact:
        rank = f"{_ranks(module.largest_rank for module in plan.sums)}, the exact sum"
    if plan.rank is not None:
        rank = f"at most {plan.rank}"
    elif plan.energy is not None:
        rank = f"for {plan.energy:g} of the squared singular values"
    table(
        ["plan", "value"],
        [
            [
                "rule",
                " ".join(
                    [plan.rule.name, *(f"{k}={v}" for k, v in plan.rule.params.items())]
                ),
            ],
            ["output", f"{plan.out}" + "/" * plan.is_directory],
            ["names of", plan.naming],
            ["modules", str(len(plan.sums))],
            ["rank", rank],
            ["to read", size(plan.read_bytes)],
            [
                "to write",
                f"at most {size(plan.write_bytes)} of {size(plan.free_bytes)} free",
            ],
            ["threads", str(plan.threads)],
        ],
    )
    print_notes(notes)


def _print_report(
    report: AdapterReport,
    chosen: ChosenCheckpoints,
    notes: Sequence[str],
    as_json: bool,
) -> None:
    """Print the result, its ranks and its digests."""
    plan = report.plan
    if as_json:
        facts = _described(plan, chosen, notes)
        for member, digest in zip(facts["members"], report.member_digests, strict=True):
            member["digest"] = f"xxh3-128:{digest}"
        result = {
            "ranks": [module._asdict() for module in report.modules],
            "energy_kept": report.energy,
            "write_bytes": report.write_bytes,
            "digest": f"xxh3-128:{report.digest}",
            "special": report.nonfinite_tensors,
            "seconds": round(report.seconds, 3),
        }
        click.echo(json.dumps(facts | result, indent=2))
        return
    modules = report.modules
    if plan.compresses and modules:
        least = sorted(modules, key=lambda module: module.energy)[:SHOWN]
        rows = [
            [m.name, _sum(m.ranks), str(m.rank), f"{m.energy:.6f}"]
            for m in least
            if m.energy < 1
        ]
        if rows:
            table(["modules that lose most", "ranks", "rank", "energy kept"], rows)
        click.echo(f"energy kept {report.energy:.6f} of all modules")
    before, after = (
        _ranks(m for r in modules for m in r.ranks),
        _ranks(module.rank for module in modules),
    )
    ranks = f"rank {before} before, {after} after, " * bool(modules)
    source = f"{plan.rule.name} of {counted(len(plan.members), 'adapter')}"
    if plan.is_copy:
        source = f"copy of {printable(plan.members[0].name)}"
    out = printable(str(report.out)) + "/" * plan.is_directory
    click.echo(
        f"wrote {out}: {source}, {counted(len(plan.sums), 'module')}, {ranks}"
        f"{size(report.write_bytes)} in {report.seconds:.2f} s"
    )
    click.echo(f"digest xxh3-128:{report.digest}")


def _ranks(ranks: Iterable[int]) -> str:
    """Format ranks: one, or the smallest and the largest."""
    counts = Counter(ranks)
    if not counts:
        return "0"
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _sum(ranks: Sequence[int]) -> str:
    return " + ".join(map(str, ranks))
