"""``ensemble distill``: distill sentence encoders into averaged word vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import stages, table
from ensembles_cli.options.model import note
from ensembles_cli.process import allow_long_fields

ALPHAS = {"similarity": 0.2, "queries": 0.02}  # default penalties


@click.command("distill")
@click.option(
    "-t",
    "--teacher",
    "teachers",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    required=True,
    help="Directory of a sentence encoder; may be repeated to average several.",
)
@click.option(
    "--texts",
    "files",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    required=True,
    help="File of training texts, also .gz; may be repeated.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output directory.",
)
@click.option("--column", help="Text column, if the texts are a table.")
@click.option(
    "--words",
    type=click.IntRange(min=1),
    metavar="N",
    help=(
        "Add the N most frequent words of the texts to the vocabulary.  [default: the "
        "teacher's tokens alone]"
    ),
)
@click.option(
    "--phrases",
    "n_phrases",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help=(
        "Give the N most frequent pairs of adjacent tokens vectors of their own; "
        "model2vec and sentence-transformers cannot read the result."
    ),
)
@click.option(
    "--components",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of dimensions: principal axes of the texts.  [default: the teacher's]",
)
@click.option(
    "--for",
    "purpose",
    type=click.Choice([*ALPHAS]),
    default="similarity",
    show_default=True,
    help=(
        "queries divides the texts into sentences and keeps the teacher's space, for "
        "searches in its index of the texts."
    ),
)
@click.option(
    "--evaluate",
    "pairs",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Table of rated pairs, to compare with the teacher.",
)
@click.option(
    "--columns",
    metavar="A,B,SCORE",
    help="Columns of --evaluate: both texts and the rating.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(min=0),
    help="Ridge penalty.  [default: 0.2; 0.02 with --for queries]",
)
@click.option(
    "--epochs",
    "n_epochs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Passes of the refinement by gradient descent on the cosine.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the refinement."
)
@click.option(
    "--threads",
    "n_jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of threads.  [default: one per processor]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help=(
        "Directory that keeps the teacher's vectors.  [default: beside OUT, deleted at "
        "the end]"
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--force", is_flag=True, help="Replace an existing directory.")
def command(
    teachers: tuple[Path, ...],
    files: tuple[Path, ...],
    out: Path,
    column: str | None,
    words: int | None,
    components: int | None,
    purpose: str,
    pairs: Path | None,
    columns: str | None,
    alpha: float | None,
    cache: Path | None,
    as_json: bool,
    force: bool,
    **settings: Any,
) -> None:
    """Distill sentence encoders into a table of averaged word vectors.

    The teacher embeds the texts, and the vectors of a table's tokens are fitted to it;
    the mean of a text's tokens then approximates the teacher's vector at a small part
    of its cost. A run that was killed continues where it stopped, if it is repeated.
    OUT is read by ensemble embed, model2vec and sentence-transformers.

    \b
    ensemble distill --teacher all-MiniLM-L6-v2/ --texts mine.txt -o mine/
    ensemble distill -t a/ -t b/ --texts mine.txt.gz --components 256 -o mine/
    ensemble distill -t all-MiniLM-L6-v2/ --texts docs.txt --for queries -o q/
    """
    if purpose == "queries" and components is not None:
        raise click.UsageError(
            "--for queries keeps the teacher's space; remove --components"
        )
    if columns is not None and pairs is None:
        raise click.UsageError("--columns requires --evaluate")
    allow_long_fields()
    from ensembles.atomic_io import check_absent
    from ensembles.embeddings.distillation.distill import distill
    from ensembles.embeddings.distillation.teachers import open_teacher
    from ensembles.embeddings.similarity.evaluation import read_similarity_pairs

    check_absent(out, folder=True, force=force)
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{out.absolute().parent} is not a directory; create it first"
        )
    # Read before the teacher is asked, which takes minutes: errors come first.
    names = None if columns is None else columns.split(",")
    rated = None if pairs is None else read_similarity_pairs(pairs, names)
    texts = [text for file in files for text in read_all(file, column)]
    facts = describe_texts(texts, quiet=as_json)
    if purpose == "queries":
        texts += new_sentences(texts)
        facts["sentences"] = len(texts) - facts["texts"]
    models = [open_teacher(path) for path in teachers]
    work = out.with_name(f".{out.name}.teacher") if cache is None else cache
    tokenizer = {} if words is None else {"tokenizer": "words", "n_words": words}
    settings["n_jobs"] = settings["n_jobs"] or -1
    settings["alpha"] = ALPHAS[purpose] if alpha is None else alpha
    with stages() as progress:
        embedder = distill(
            *(models, texts),
            **{**tokenizer, **settings, "n_components": components, "cache": work},
            progress=progress,
        )
    embedder.save(out, force=force)
    if cache is None:
        shutil.rmtree(work)
    n_rows, dim = embedder.vectors_.matrix.shape
    n_tokens = embedder.vectors_.n_words
    facts |= {"out": str(out), "n_tokens": n_tokens, "dim": dim}
    facts["n_phrases"] = n_rows - n_tokens
    if rated is not None:
        facts |= compare([*map(str, teachers), str(out)], [*models, embedder], rated)
        facts |= describe_overlap(texts, rated, quiet=as_json)
    print_result(facts, as_json=as_json)
    if purpose == "queries" and not as_json:
        note(f"search the teacher's vectors with ensemble search --queries-by {out}")


def read_all(file: Path, column: str | None) -> list[str]:
    """Texts of a file, which may be compressed by gzip."""
    from ensembles.embeddings.files.binary_files import decompressed, is_gzip
    from ensembles.embeddings.files.text_files import read_texts, to_list

    with ExitStack() as stack:
        source = stack.enter_context(decompressed(file)) if is_gzip(file) else file
        batches = read_texts(source, column=column)
        return [text for batch in batches for text in to_list(batch.texts)]


def describe_texts(texts: Sequence[str], *, quiet: bool) -> dict[str, Any]:
    """Print the number of texts; returns it as JSON values."""
    n_empty = sum(not text.strip() for text in texts)
    n_distinct = len({text for text in texts if text.strip()})
    if not quiet:
        note(
            f"{len(texts)} texts: {n_empty} are empty and left out, "
            f"{len(texts) - n_empty - n_distinct} repeat another one, which counts as "
            "often"
        )
    return {"texts": len(texts), "empty_texts": n_empty, "distinct_texts": n_distinct}


def new_sentences(texts: Sequence[str]) -> list[str]:
    """Sentences of the texts that are not texts themselves."""
    from ensembles.embeddings.distillation.sentences import split_sentences

    known = set(texts)
    return [text for text in split_sentences(texts) if text not in known]


def compare(names: list[str], models: list[Any], rated: Any) -> dict[str, Any]:
    """Correlations of the teachers and the table with the ratings."""
    from ensembles.embeddings.similarity.evaluation import evaluate_similarity

    correlations, _ = evaluate_similarity(models, rated)
    pairs = zip(names, correlations, strict=True)
    return {"models": {name: interval._asdict() for name, interval in pairs}}


def describe_overlap(
    texts: Sequence[str], rated: Any, *, quiet: bool
) -> dict[str, Any]:
    """Print the overlap of the training texts with the evaluation pairs."""
    from ensembles.embeddings.distillation.overlap import find_overlap

    overlap = find_overlap(texts, [*rated.first, *rated.second])
    if not quiet:
        note(
            f"{overlap.n_equal} of the {overlap.n_texts} evaluation texts are training "
            f"texts too, and {100 * overlap.share:.1f} % of their sequences of five "
            "words occur in training texts"
        )
    return {"overlap": overlap._asdict()}


def print_result(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the result of a distillation."""
    if as_json:
        click.echo(json.dumps(facts))
        return
    phrases = f"{facts['n_phrases']} phrases, " if facts["n_phrases"] else ""
    sizes = f"{facts['n_tokens']} tokens, {phrases}{facts['dim']} dimensions"
    click.echo(f"{facts['out']}: {sizes}")
    if "models" in facts:
        rows = [
            [name, *(f"{100 * value[key]:.1f}" for key in ("value", "low", "high"))]
            for name, value in facts["models"].items()
        ]
        header = ["model", "Spearman x 100", "95 % interval", "to"]
        table(header, rows)
