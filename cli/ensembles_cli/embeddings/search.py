"""``ensemble search``: find the texts that are most similar to a query."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ensembles_cli.console import bar, table
from ensembles_cli.embeddings.embed import size_of
from ensembles_cli.options.model import (
    as_json_options,
    from_json_options,
    model_option,
    model_options,
    note,
    open_transform,
)
from ensembles_cli.options.texts import text_options
from ensembles_cli.process import allow_long_fields

LONGEST = 200  # characters of a text in the table


@click.command("search")
@click.argument("queries", nargs=-1, metavar="QUERY...")
@click.argument("file", type=click.Path())
@partial(model_option, required=False)
@click.option(
    "-k",
    "k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of texts for each query.",
)
@click.option(
    "--queries",
    "queries_file",
    type=click.Path(),
    help="File of queries, one per line, or a table as FILE; - is standard input.",
)
@click.option(
    "--queries-by",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help=(
        "Another model for the queries, in the space of the model of FILE, such as a "
        "table that was distilled from it."
    ),
)
@click.option(
    "--min-score",
    type=float,
    default=-1.0,
    help="Smallest cosine of a text.  [default: -1]",
)
@text_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    queries: tuple[str, ...],
    file: str,
    model: Path | None,
    k: int,
    queries_file: str | None,
    queries_by: Path | None,
    min_score: float,
    column: str | None,
    kind: str | None,
    encoding: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the texts of FILE with the highest cosine similarity to each QUERY.

    FILE is a file of texts, which is embedded first (- reads standard input), or an
    index: a directory that ensemble embed -o NAME.index wrote, which has its own model.
    The search is exact. Rows are counted from 0. --json prints whole texts.

    \b
    ensemble search "the film was boring" reviews.txt -m model/
    ensemble embed reviews.txt -m model/ -o reviews.index
    ensemble search "the film was boring" reviews.index -k 5
    ensemble search --queries questions.txt reviews.index --json
    ensemble search "boring" teacher.index --queries-by distilled/
    """
    allow_long_fields()
    if not -1 <= min_score <= 1:
        raise click.UsageError(
            f"--min-score must be a cosine from -1 to 1, found {min_score}"
        )
    if queries_file == file == "-":
        raise click.UsageError("only one of --queries and FILE can be standard input")
    asked = [*queries, *read_queries(queries_file, encoding)]
    if not asked:
        raise click.UsageError("a QUERY is missing; or pass --queries FILE")
    reading = {"column": column, "kind": kind, "encoding": encoding}
    if Path(file).is_dir():
        source = click.get_current_context().get_parameter_source("model")
        given = model if source == ParameterSource.COMMANDLINE else None
        if column is not None or kind is not None:
            raise click.UsageError(
                f"--column and --kind do not apply to an index: {file} has its texts"
            )
        hits = hits_in_index(Path(file), asked, k, given, queries_by, options)
    elif model is None:
        Path(file).stat()  # raises if it does not exist
        raise click.UsageError("--model is missing, which embeds the texts of FILE")
    else:
        hits = hits_in_file(file, asked, k, model, queries_by, reading, options)
    results = [[hit for hit in found if hit.cosine >= min_score] for found in hits]
    if as_json:
        pairs = zip(asked, results, strict=True)
        facts = [
            {"query": query, "hits": [hit._asdict() for hit in found]}
            for query, found in pairs
        ]
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    print_hits(asked, results)


def query_vectors(transform: Any, queries: Sequence[str]) -> Any:
    """Vectors of the queries; those without one to compare are named."""
    vectors = transform(queries)
    pairs = zip(queries, vectors.any(axis=1), strict=True)
    unknown = [repr(shortened(query)) for query, is_known in pairs if not is_known]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        note(f"no known token, and so no text is found: {', '.join(unknown[:3])}{more}")
    return vectors


def read_queries(file: str | None, encoding: str) -> list[str]:
    """Queries of a file, one per line or of the text column of a table."""
    if file is None:
        return []
    from ensembles.embeddings.files.text_files import read_texts, to_list

    source: Any = sys.stdin.buffer if file == "-" else file
    batches = read_texts(source, encoding=encoding)
    return [text for batch in batches for text in to_list(batch.texts)]


def hits_in_index(
    path: Path,
    queries: list[str],
    k: int,
    model: Path | None,
    queries_by: Path | None,
    options: dict[str, Any],
) -> list[list[Any]]:
    """Texts of an index for each query."""
    from ensembles.embeddings.similarity.text_index import TextIndex
    from ensembles.embeddings.similarity.text_search import search_index

    index = TextIndex(path)
    if as_json_options(options) and (model is None or queries_by is not None):
        raise click.UsageError(
            "options of the model apply only with --model, and without --queries-by: "
            "an index has its own"
        )
    if model is None:
        model = Path(index.facts["model"])
        if queries_by is None and not model.exists():
            raise click.UsageError(
                f"the model of {path} is not at {model} any more; pass --model with "
                "its path"
            )
        options = from_json_options(index.facts["options"])
    if queries_by is None:
        transform = open_transform(model, options)
        index.check_model(transform, model)
    else:
        transform = open_transform(queries_by, {})
        cosine = index.probe_cosines(transform).mean()
        note(
            f"the mean cosine of vectors of {queries_by} with those of the same texts "
            f"in {path} is {cosine:.2f}"
        )
    return search_index(query_vectors(transform, queries), index, k)


def hits_in_file(
    file: str,
    queries: list[str],
    k: int,
    model: Path,
    queries_by: Path | None,
    reading: dict[str, Any],
    options: dict[str, Any],
) -> list[list[Any]]:
    """Texts of a file for each query."""
    from ensembles.embeddings.files.text_files import read_texts
    from ensembles.embeddings.similarity.text_search import search_batches

    source: Any = sys.stdin.buffer if file == "-" else file
    batches = read_texts(source, **reading)
    # Read a first batch, to report errors before the slow loading of the model.
    first = list(islice(batches, 1))
    transform = open_transform(model, options)
    by = transform if queries_by is None else open_transform(queries_by, {})
    with bar("searching", size_of(source)) as progress:
        return search_batches(
            query_vectors(by, queries),
            chain(first, batches),
            transform,
            k,
            progress=progress,
        )


def print_hits(queries: Sequence[str], hits: Sequence[Sequence[Any]]) -> None:
    """Print a table of the texts that were found."""
    are_several = len(queries) > 1
    rows = [
        [
            *([shortened(query)] if are_several else []),
            *(f"{hit.cosine:.4f}", str(hit.row), shortened(hit.text)),
        ]
        for query, found in zip(queries, hits, strict=True)
        for hit in found
    ]
    table([*(["query"] if are_several else []), "cosine", "row", "text"], rows)


def shortened(text: str) -> str:
    """Cut a long text."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
