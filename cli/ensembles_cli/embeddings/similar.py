"""``ensemble similar``: cosine similarities between texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.console import table
from ensembles_cli.options.model import (
    describe,
    model_option,
    model_options,
    note,
    open_model_from_options,
)


@click.command("similar")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT TEXT...")
@model_option
@model_options
def command(texts: tuple[str, ...], model: Path, **options: Any) -> None:
    """Compute cosine similarities of the first text with the others, sorted.

    A text without known words has similarity 0 to all others.

    \b
    ensemble similar -m glove.txt "a cat sat" "the dog lay down" "stocks fell"
    """
    if len(texts) < 2:
        raise click.UsageError("at least two texts are required, found one")
    from ensembles.embeddings.similarity.cosine import paired_cosines

    embedder = open_model_from_options(model, **options)
    describe(embedder)
    vectors = embedder.transform(list(texts))
    for text, vector in zip(texts, vectors, strict=True):
        if not vector.any():
            note(f"no known token in {text!r}: its similarity is 0")
    cosines = paired_cosines(vectors[1:], vectors[:1])
    order = sorted(range(len(cosines)), key=lambda index: -cosines[index])
    rows = [[f"{cosines[index]:.4f}", texts[index + 1]] for index in order]
    table(["cosine", f"with {texts[0]!r}"], rows)
