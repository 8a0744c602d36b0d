"""``ensemble evaluate_similarity``: compare cosine similarities with human ratings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import table
from ensembles_cli.options.model import describe, model_options, opened
from ensembles_cli.options.types import Param
from ensembles_cli.process import allow_long_fields, load_numba


@click.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("pairs", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="A second model, with settings of its own, on the same pairs.",
)
@click.option(
    "--against-option",
    "others",
    type=Param(),
    multiple=True,
    help="An option of the second model, such as weights=zipf; may be repeated.",
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
    others: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Spearman's correlation, times 100, of cosines with the scores in PAIRS.

    PAIRS is a table with commas or tabs: two texts and a score in each row. Intervals
    hold the number in 95 of 100 resamples of the pairs; of two models that of their
    difference tells whether one is better. Options are those of MODEL; the second model
    has those of --against-option.

    \b
    ensemble evaluate glove.txt sts-dev.csv --columns 6,7,5
    ensemble evaluate saved/ pairs.csv --against all-MiniLM-L6-v2/
    ensemble evaluate v.txt p.csv --against v.txt --against-option weights=zipf
    """
    load_numba()
    allow_long_fields()
    from ensembles.embeddings.similarity.evaluation import (
        evaluate_similarity,
        read_similarity_pairs,
    )

    if others and against is None:
        raise click.UsageError("--against-option must have --against")
    named = None if columns is None else columns.split(",")
    asked = read_similarity_pairs(pairs, named)
    paths = [model] if against is None else [model, against]
    models = [opened(model, **options)]
    models += [opened(path, **settings(others, options)) for path in paths[1:]]
    described = [describe(one, quiet=as_json) for one in models]
    found, above = evaluate_similarity(models, asked)
    if as_json:
        facts = {
            "pairs": len(asked.scores),
            "models": by_name(paths, found),
            "read": described,
            "difference": above[0]._asdict() if above else None,
        }
        click.echo(json.dumps(facts))
        return
    rows = [[str(path), *cells(one)] for path, one in zip(paths, found, strict=True)]
    rows += [["difference", *cells(one)] for one in above]
    table(["model", "Spearman x 100", "95 % interval"], rows)
    if len(found) == 1:
        # The last line has a single number, so that ensemble soup --score can read it.
        click.echo(f"Spearman: {rows[0][1]}")


def by_name(paths: list[Path], found: list[Any]) -> dict[str, Any]:
    """Results by model path; equal paths are numbered."""
    names = list(map(str, paths))
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return {name: one._asdict() for name, one in zip(names, found, strict=True)}


def settings(
    given: tuple[tuple[str, Any], ...], known: dict[str, Any]
) -> dict[str, Any]:
    """Options of the second model, from names and values of --against-option."""
    found: dict[str, Any] = {}
    for name, value in given:
        key = name.replace("-", "_")
        if key not in known or key.endswith("_params"):
            keys = sorted(key for key in known if not key.endswith("_params"))
            names = ", ".join(keys).replace("_", "-")
            raise click.UsageError(
                f"unknown option {name!r} of --against-option ({names})"
            )
        found[key] = Path(str(value)) if key == "fit" else value
    if "rule" in found:
        found["rule"] = (found["rule"],)
    return found


def cells(found: Any) -> list[str]:
    """Format a correlation and its confidence interval, times 100."""
    value, low, high = (f"{100 * number:.1f}" for number in found)
    return [value, f"{low} to {high}"]
