"""Output of ``ensemble lora extract``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import printable, size, table
from ensembles_cli.reports.average import counted, print_notes

if TYPE_CHECKING:
    from ensembles.checkpoints import ExtractedModule, ExtractionReport

SHOWN = 20  # modules in the table, those with the largest error


def print_extraction(report: ExtractionReport, as_json: bool) -> None:
    """Print ranks and errors of an extracted adapter.

    Parameters
    ----------
    report : ExtractionReport
        The extraction.
    as_json : bool
        Whether to print all modules as JSON.
    """
    if as_json:
        click.echo(json.dumps(_described(report), indent=2))
        return
    print_notes(report.notes)
    modules = sorted(report.modules, key=lambda module: -module.relative_error)
    rows = [_row(module) for module in modules[:SHOWN]]
    n_more = len(modules) - SHOWN
    if n_more > 0:
        click.echo(
            f"note: {n_more} more modules have smaller errors; --json shows all",
            err=True,
        )
    table(["module", "rank", "energy", "relative error"], [*rows, _row(report.total)])
    click.echo(
        f"wrote {printable(str(report.out))}/: updates of "
        f"{counted(len(report.modules), 'module')}, "
        f"{counted(len(report.saved), 'tensor')} whole, {size(report.write_bytes)} in "
        f"{report.seconds:.2f} s"
    )


def _row(module: ExtractedModule) -> list[str]:
    return [
        module.name,
        str(module.rank),
        f"{module.energy:.6f}",
        f"{module.relative_error:.2g}",
    ]


def _described(report: ExtractionReport) -> dict[str, Any]:
    return {
        "out": str(report.out),
        "modules": [
            {
                "name": module.name,
                "shape": list(module.shape),
                "rank": module.rank,
                "energy": module.energy,
                "relative_error": module.relative_error,
            }
            for module in report.modules
        ],
        "energy": report.total.energy,
        "relative_error": report.total.relative_error,
        "saved": report.saved,
        "left_out": report.left_out,
        "unchanged": report.n_unchanged,
        "write_bytes": report.write_bytes,
        "seconds": round(report.seconds, 3),
        "notes": list(report.notes),
    }
