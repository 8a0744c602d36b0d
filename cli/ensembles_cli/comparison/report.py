"""Output of ``ensemble compare``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ensembles_cli.console import printable, table
from ensembles_cli.reports.soup_progress import print_notes

if TYPE_CHECKING:
    from ensembles.reports import Comparison


def print_comparison(comparison: Comparison, as_json: bool) -> None:
    """Print the table and its summary, or all values as JSON; notes go to stderr."""
    from ensembles.reports.comparison import as_record

    if as_json:
        facts = {
            **vars(comparison),
            "rows": list(map(as_record, comparison.rows)),
            "best": comparison.best.model,
            "summary": comparison.summary,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    print_notes([printable(note) for note in comparison.notes])
    table(*comparison.cells())
    click.echo(printable(comparison.summary))
