"""``ensemble embed``: compute sentence vectors of the texts in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import bar
from ensembles_cli.options.model import (
    as_json_options,
    describe,
    describe_coverage,
    model_option,
    model_options,
    note,
    open_model_from_options,
)
from ensembles_cli.options.texts import text_options
from ensembles_cli.process import allow_long_fields, end_cleanly


@click.command("embed")
@click.argument("file", type=click.Path(), required=False)
@model_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help=(
        "Output: NAME.npy, NAME.parquet with the texts, or the directory NAME.index "
        "for ensemble search."
    ),
)
@text_options
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "float64", "int8", "binary"]),
    help="Data type of the vectors.  [default: float32]",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@click.option(
    "--convert",
    is_flag=True,
    help="Convert word vectors to .safetensors or .npz, which are memory-mapped.",
)
def command(
    file: str | None,
    model: Path,
    out: Path,
    column: str | None,
    kind: str | None,
    encoding: str,
    force: bool,
    convert: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compute a vector for each text of FILE; - reads standard input.

    FILE is read in batches and may be larger than memory. Output is written atomically:
    an interrupted run leaves no file. --convert needs no FILE: it writes the word
    vectors of the model to a file that loads without parsing.

    \b
    ensemble embed reviews.txt -m glove.txt -o reviews.npy
    ensemble embed reviews.csv -m model/ --column body -o reviews.parquet
    ensemble embed corpus.txt -m glove.txt --fit corpus.txt --whiten -o corpus.npy
    zcat reviews.gz | ensemble embed - -m glove.txt -o reviews.npy
    ensemble embed --convert -m glove.txt -o glove.safetensors
    ensemble embed reviews.txt -m model/ -o reviews.index
    """
    end_cleanly()
    if convert != (file is None):
        raise click.UsageError(
            "--convert takes no FILE"
            if convert
            else "FILE is missing; pass - to read standard input"
        )
    if convert:
        input_options = {"column": column, "kind": kind, "encoding": encoding}
        if encoding == "utf-8":  # the default
            del input_options["encoding"]
        write_table(
            model, out, {**options, **input_options}, force=force, as_json=as_json
        )
        return
    from ensembles.embeddings.files.text_files import read_texts

    allow_long_fields()
    check_writable(out, force=force)
    source: Any = sys.stdin.buffer if file == "-" else file
    batches = read_texts(source, kind=kind, column=column, encoding=encoding)
    # Read a first batch, to report errors before the slow loading of the model.
    first = list(islice(batches, 1))
    fit = options["fit"]
    if fit is not None and fit.suffix == Path(str(file)).suffix:
        options["fit_column"] = options["fit_column"] or column
    embedder = open_model_from_options(model, **options)
    origin = {"model": str(model.absolute()), "options": as_json_options(options)}
    facts = {"out": str(out), "model": describe(embedder, quiet=as_json)}
    facts["input"] = describe_input(file, first, quiet=as_json)
    all_batches, empty = chain(first, batches), embedder.transform([])
    coverage = write_vectors_of(
        *(embedder, all_batches, out), origin, n_bytes=size_of(source), force=force
    )
    facts |= {"columns": empty.shape[1], "dtype": str(empty.dtype)}
    facts |= describe_coverage(coverage, quiet=as_json)
    facts["split_tokens"] = describe_split_tokens(embedder, first, quiet=as_json)
    if as_json:
        click.echo(json.dumps(facts))
        return
    shape = f"{facts['columns']} columns of {facts['dtype']}"
    click.echo(f"{out}: {facts['texts']} texts, {shape}")


def check_writable(out: Path, *, force: bool) -> None:
    """Raise if the output cannot be written."""
    from ensembles.atomic_io import check_absent
    from ensembles.embeddings.files.vector_files import check_output
    from ensembles.embeddings.similarity.text_index import SUFFIX

    if out.suffix == SUFFIX:
        check_absent(out, folder=True, force=force)
    else:
        check_output(out, force=force)


def write_vectors_of(
    embedder: Any,
    batches: Iterable[Any],
    out: Path,
    origin: dict[str, Any],
    *,
    n_bytes: int | None,
    force: bool,
) -> Any:
    """Write the vectors of all texts; returns their token coverage."""
    from ensembles.embeddings.files.vector_files import open_vector_writer
    from ensembles.embeddings.similarity.text_index import SUFFIX, open_index_writer
    from ensembles.embeddings.tokenization.coverage import Coverage

    coverage, empty = Coverage(), embedder.transform([])
    shape = (out, empty.shape[1], empty.dtype)
    if out.suffix == SUFFIX:
        writer = open_index_writer(*shape, force=force, facts=origin)
    else:
        writer = open_vector_writer(*shape, force=force)
    with bar("embedding", n_bytes) as progress, writer as add:
        for batch in batches:
            add(batch.texts, embedder.transform_counted(batch.texts, coverage))
            progress(batch.n_bytes)
    return coverage


def describe_input(
    file: str | None, first: Sequence[Any], *, quiet: bool
) -> dict[str, Any]:
    """Print how a file is read, on one line; returns the same as JSON values."""
    name = "standard input" if file == "-" else str(file)
    facts = {"file": file, **(first[0].facts if first else {})}
    columns = facts.get("columns", 0)
    n_columns = columns if isinstance(columns, int) else len(columns)
    message = f"{name} is read as {facts.get('kind', 'an empty file')}"
    if "column" in facts:
        message += f", column {facts['column']!r} of {n_columns}"
    if facts.get("delimiter", ",") not in ",\t":
        message += f", delimiter {facts['delimiter']!r}"
    if not quiet:
        note(message)
    return facts


def describe_split_tokens(
    embedder: Any, first: Sequence[Any], *, quiet: bool
) -> dict[str, int]:
    """Print which in-vocabulary tokens the tokenizer splits or drops.

    Only the first texts are examined. Returns the count of each token.
    """
    from ensembles.embeddings.summary import N_SAMPLED, split_tokens

    counts = split_tokens(embedder, first[0].texts if first else [])
    if counts and not quiet:
        examples = ", ".join(repr(token) for token, _ in counts.most_common(3))
        note(
            f"the tokenizer splits or drops {sum(counts.values())} tokens of the first "
            f"{N_SAMPLED} texts that have a vector, such as {examples}; --tokenizer "
            "whitespace keeps whitespace-delimited tokens"
        )
    return dict(counts)


def write_table(
    model: Path, out: Path, options: dict[str, Any], *, force: bool, as_json: bool
) -> None:
    """Convert word vectors to a file that is memory-mapped when read."""
    from ensembles.embeddings.vectors import read_vectors, write_vectors

    limit, errors = options.pop("limit"), options.pop("errors")
    for name, value in options.items():
        if value not in (None, ()):
            option = name.replace("_params", "_param").replace("_", "-")
            raise click.UsageError(
                f"--convert copies vectors unchanged; remove --{option}"
            )
    vectors = read_vectors(model, limit=limit, errors=errors)
    write_vectors(vectors, out, force=force)
    n_tokens, dim = vectors.matrix.shape
    if as_json:
        click.echo(json.dumps({"out": str(out), "n_tokens": n_tokens, "dim": dim}))
    else:
        click.echo(f"{out}: {n_tokens} tokens, {dim} dimensions")


def size_of(source: Any) -> int | None:
    """Size of a file in bytes; None for a stream."""
    path = Path(str(source))
    return path.stat().st_size if path.is_file() else None
