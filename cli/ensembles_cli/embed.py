"""``ensemble embed``: texts in a file, vectors out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ensembles_cli.models import model_option, model_options, opened
from ensembles_cli.printing import bar
from ensembles_cli.starting import allow_long_fields, end_cleanly, load_numba


@click.command("embed")
@click.argument("file", type=click.Path(), required=False)
@model_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Where to write: NAME.npy, or NAME.parquet with the texts beside.",
)
@click.option(
    "--column",
    help=(
        "Column of the texts by name, or by number where there is no header.  "
        "[default: the only one, text or sentence]"
    ),
)
@click.option(
    "--kind",
    type=click.Choice(["lines", "csv", "tsv", "jsonl", "parquet"]),
    help="How FILE is read.  [default: by its suffix, else a text a line]",
)
@click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    help="Of FILE; latin-1 takes any bytes.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "float64", "int8", "bits"]),
    help="Format of the numbers.  [default: float32]",
)
@model_options
@click.option("--force", is_flag=True, help="Replace what is at the output.")
@click.option(
    "--convert",
    is_flag=True,
    help="Write the model's word vectors themselves, to .safetensors or .npz.",
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
    **options: Any,
) -> None:
    """Turn the texts of FILE into vectors, one row each; - reads standard input.

    The file is read piece by piece and may be larger than the memory. The output is
    whole or absent: a run that is interrupted leaves nothing, and starts anew. With
    --convert text vectors become a file that opens at once.

    \b
    ensemble embed reviews.txt -m glove.txt -o reviews.npy
    ensemble embed reviews.csv -m model/ --column body -o reviews.parquet
    ensemble embed corpus.txt -m glove.txt --fit corpus.txt --whiten -o corpus.npy
    zcat reviews.gz | ensemble embed - -m glove.txt -o reviews.npy
    ensemble embed --convert -m glove.txt -o glove.safetensors
    """
    load_numba()
    end_cleanly()
    if convert != (file is None):
        raise click.UsageError(
            "--convert takes no FILE" if convert else "FILE is missing; - is stdin"
        )
    if convert:
        others = {"column": column, "kind": kind}
        write_table(model, out, {**options, **others}, force=force)
        return
    from ensembles.embeddings.documents import read_texts
    from ensembles.embeddings.outputs import check_output, vectors_file

    allow_long_fields()
    check_output(out, force=force)
    if file != "-":
        Path(str(file)).stat()  # before the model, which may take long to open
    fit = options["fit"]
    if fit is not None and fit.suffix == Path(str(file)).suffix:
        options["fit_column"] = options["fit_column"] or column
    embedder = opened(model, **options)
    source: Any = sys.stdin.buffer if file == "-" else file
    n_texts, like = 0, embedder.transform([])
    with (
        bar("embedding", size_of(source)) as progress,
        vectors_file(out, like.shape[1], like.dtype, force=force) as add,
    ):
        for batch in read_texts(source, kind=kind, column=column, encoding=encoding):
            add(batch.texts, embedder.transform(batch.texts))
            n_texts += len(batch.texts)
            progress(batch.n_bytes)
    click.echo(f"{out}: {n_texts} texts, {like.shape[1]} columns of {like.dtype}")


def write_table(
    model: Path, out: Path, options: dict[str, Any], *, force: bool
) -> None:
    """Word vectors in a file that is mapped, as they are."""
    from ensembles.embeddings.vectors import read_vectors, write_vectors

    limit, errors = options.pop("limit"), options.pop("errors")
    for name, value in options.items():
        if value not in (None, ()):
            option = "param" if name == "params" else name.replace("_", "-")
            raise click.UsageError(
                f"--convert takes vectors as they are, found --{option}"
            )
    vectors = read_vectors(model, limit=limit, errors=errors or "strict")
    write_vectors(vectors, out, force=force)
    n_tokens, dim = vectors.matrix.shape
    click.echo(f"{out}: {n_tokens} tokens, {dim} dimensions")


def size_of(source: Any) -> int | None:
    """Bytes of a file, None of a stream."""
    path = Path(str(source))
    return path.stat().st_size if path.is_file() else None
