"""``ensemble evaluate``: compare cosine similarities with human ratings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import table
from ensembles_cli.options.model import describe, model_options, open_model_from_options
from ensembles_cli.options.types import Param
from ensembles_cli.process import allow_long_fields


@click.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("pairs", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Second model to compare on the same pairs.",
)
@click.option(
    "--against-option",
    "against_options",
    type=Param(),
    multiple=True,
    help="Option of the second model, such as weights=zipf; may be repeated.",
)
@click.option(
    "--columns",
    metavar="A,B,SCORE",
    help=(
        "Columns of both texts and the rating, by name, or by number if the table has "
        "no header.  [default: common names, or the first three]"
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
    against_options: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Evaluate a text embedding model on human similarity ratings.

    Prints the Spearman correlation, times 100, of cosine similarities with ratings.
    PAIRS is a CSV or TSV table with two texts and their rating per row. The intervals
    are 95 % bootstrap intervals over the pairs. With two models, one is better if the
    interval of the difference excludes 0. The options apply to MODEL; --against-option
    sets an option of the second model.

    \b
    ensemble evaluate glove.txt sts-dev.csv --columns 6,7,5
    ensemble evaluate saved/ pairs.csv --against all-MiniLM-L6-v2/
    ensemble evaluate v.txt p.csv --against v.txt --against-option weights=zipf
    """
    allow_long_fields()
    from ensembles.embeddings.similarity.evaluation import (
        evaluate_similarity,
        read_similarity_pairs,
    )

    if against_options and against is None:
        raise click.UsageError("--against-option requires --against")
    names = None if columns is None else columns.split(",")
    rated = read_similarity_pairs(pairs, names)
    paths = [model] if against is None else [model, against]
    models = [open_model_from_options(model, **options)]
    models += [
        open_model_from_options(path, **settings(against_options, options))
        for path in paths[1:]
    ]
    summaries = [describe(fitted, quiet=as_json) for fitted in models]
    correlations, differences = evaluate_similarity(models, rated)
    if as_json:
        facts = {
            "pairs": len(rated.scores),
            "models": by_name(paths, correlations),
            "read": summaries,
            "difference": differences[0]._asdict() if differences else None,
        }
        click.echo(json.dumps(facts))
        return
    pairs_of_rows = zip(paths, correlations, strict=True)
    rows = [[str(path), *cells(interval)] for path, interval in pairs_of_rows]
    rows += [["difference", *cells(interval)] for interval in differences]
    table(["model", "Spearman x 100", "95 % interval"], rows)
    if len(correlations) == 1:
        # The last line has a single number, so that ensemble soup --score can read it.
        click.echo(f"Spearman: {rows[0][1]}")


def by_name(paths: list[Path], intervals: list[Any]) -> dict[str, Any]:
    """Results by model path; equal paths are numbered."""
    names = list(map(str, paths))
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    pairs = zip(names, intervals, strict=True)
    return {name: interval._asdict() for name, interval in pairs}


def settings(
    options: tuple[tuple[str, Any], ...], defaults: dict[str, Any]
) -> dict[str, Any]:
    """Options of the second model, from names and values of --against-option."""
    values: dict[str, Any] = {}
    for name, value in options:
        key = name.replace("-", "_")
        if key not in defaults or key.endswith("_params"):
            keys = sorted(key for key in defaults if not key.endswith("_params"))
            names = ", ".join(keys).replace("_", "-")
            raise click.UsageError(
                f"unknown option {name!r} of --against-option ({names})"
            )
        values[key] = Path(str(value)) if key == "fit" else value
    if "rule" in values:
        values["rule"] = (values["rule"],)
    return values


def cells(interval: Any) -> list[str]:
    """Format a correlation and its confidence interval, times 100."""
    value, low, high = (f"{100 * number:.1f}" for number in interval)
    return [value, f"{low} to {high}"]
