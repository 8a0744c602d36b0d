"""``ensemble dedup``: remove equal and similar texts from a file."""

from __future__ import annotations

import json
import sys
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import bar
from ensembles_cli.embeddings.embed import describe_input, size_of
from ensembles_cli.options.model import model_option, model_options, open_transform
from ensembles_cli.options.texts import text_options
from ensembles_cli.process import allow_long_fields, end_cleanly


@click.command("dedup")
@click.argument("file", type=click.Path())
@model_option
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Smallest cosine of similar texts.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output file: one text per line, or NAME.jsonl with rows and texts.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write each dropped text with the kept one, as JSON lines.",
)
@text_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--force", is_flag=True, help="Replace existing output files.")
def command(
    file: str,
    model: Path,
    threshold: float,
    out: Path,
    report: Path | None,
    column: str | None,
    kind: str | None,
    encoding: str,
    as_json: bool,
    force: bool,
    **options: Any,
) -> None:
    """Remove texts that are equal or similar to an earlier text of FILE.

    A text is kept unless it equals an earlier text, or its cosine with a text that is
    kept already reaches the threshold. The result is exact: every pair of texts is
    compared, or ruled out by a bound of its cosine. - reads standard input.

    \b
    ensemble dedup reviews.txt -m model/ -o unique.txt
    ensemble dedup reviews.csv -m model/ --threshold 0.8 -o unique.jsonl
    ensemble dedup reviews.txt -m model/ -o unique.txt --report dropped.jsonl
    """
    end_cleanly()
    allow_long_fields()
    from ensembles.atomic_io import check_absent
    from ensembles.embeddings.files.text_files import read_texts
    from ensembles.embeddings.similarity.text_duplicates import (
        find_text_duplicates,
        write_duplicates,
    )

    if report is not None and report.absolute() == out.absolute():
        raise click.UsageError(f"--out and --report must differ, found {out} for both")
    for path in (out, report):
        if path is not None:
            check_absent(path, folder=False, force=force)
            path.parent.stat()  # raises if it does not exist
    source: Any = sys.stdin.buffer if file == "-" else file
    batches = read_texts(source, kind=kind, column=column, encoding=encoding)
    # Read a first batch, to report errors before the slow loading of the model.
    first = list(islice(batches, 1))
    facts: dict[str, Any] = {"out": str(out)}
    facts["input"] = describe_input(file, first, quiet=as_json)
    transform = open_transform(model, options)
    found = find_text_duplicates(
        *(chain(first, batches), transform, threshold),
        out=out,
        n_jobs=-1,
        reading=bar("embedding", size_of(source)),
        comparing=partial(bar, "comparing", counts_bytes=False),
    )
    write_duplicates(found, out, report, force=force)
    facts |= found.summary() | {"threshold": threshold}
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"{out}: {facts['kept']} of {facts['texts']} texts; dropped {facts['equal']} "
        f"equal to an earlier text, and {facts['similar']} with a cosine of at least "
        f"{threshold:g} to a kept one (exact)"
    )
