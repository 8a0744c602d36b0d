"""``ensemble evaluate``: a model's similarities beside people's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ensembles_cli.models import model_options, opened
from ensembles_cli.printing import table
from ensembles_cli.starting import allow_long_fields, load_numba


@click.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("pairs", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True),
    help="A second model, with settings of its own, on the same pairs.",
)
@click.option(
    "--columns",
    metavar="A,B,SCORE",
    help=(
        "Columns of both texts and the score, by name, or by number where there is no "
        "header.  [default: the usual names, or the first three]"
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@model_options
def command(
    model: Path,
    pairs: Path,
    against: Path | None,
    columns: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Spearman's correlation, times 100, of cosines with the scores in PAIRS.

    PAIRS is a table with commas or tabs: two texts and a score in each row. Intervals
    hold the number in 95 of 100 resamples of the pairs; of two models that of their
    difference tells whether one is better. Options are those of MODEL.

    \b
    ensemble evaluate glove.txt sts-dev.csv --columns 6,7,5
    ensemble evaluate saved/ pairs.csv --against all-MiniLM-L6-v2/
    """
    load_numba()
    allow_long_fields()
    from ensembles.embeddings.evaluation import evaluate, read_pairs

    named = None if columns is None else columns.split(",")
    asked = read_pairs(pairs, named)
    paths = [model] if against is None else [model, against]
    models = [opened(model, **options)]
    models += [opened(path) for path in paths[1:]]
    found, above = evaluate(models, asked)
    if as_json:
        facts = {
            "pairs": len(asked.scores),
            "models": {
                str(path): one._asdict() for path, one in zip(paths, found, strict=True)
            },
            "difference": above[0]._asdict() if above else None,
        }
        click.echo(json.dumps(facts))
        return
    rows = [[str(path), *cells(one)] for path, one in zip(paths, found, strict=True)]
    rows += [["difference", *cells(one)] for one in above]
    table(["model", "Spearman x 100", "95 % interval"], rows)
    if len(found) == 1:
        # Alone and last: what reads a score reads this one.
        click.echo(f"Spearman: {rows[0][1]}")


def cells(found: Any) -> list[str]:
    """A number and its interval, times 100."""
    value, low, high = (f"{100 * number:.1f}" for number in found)
    return [value, f"{low} to {high}"]
