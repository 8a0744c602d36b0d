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
    opened,
)
from ensembles_cli.process import load_numba


@click.command("similar")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT TEXT...")
@model_option
@model_options
def command(texts: tuple[str, ...], model: Path, **options: Any) -> None:
    """Cosine of the first text's vector with that of each other, the nearest first.

    A text without words that the model knows has similarity 0 with all.

    \b
    ensemble similar -m glove.txt "a cat sat" "the dog lay down" "stocks fell"
    """
    if len(texts) < 2:
        raise click.UsageError("there must be at least two texts, found one")
    load_numba()
    from ensembles.embeddings.similarity.cosine import paired_cosines

    embedder = opened(model, **options)
    describe(embedder)
    vectors = embedder.transform(list(texts))
    for text, vector in zip(texts, vectors, strict=True):
        if not vector.any():
            note(f"no known token in {text!r}: its similarity is 0")
    found = paired_cosines(vectors[1:], vectors[:1])
    order = sorted(range(len(found)), key=lambda place: -found[place])
    rows = [[f"{found[place]:.4f}", texts[place + 1]] for place in order]
    table(["cosine", f"with {texts[0]!r}"], rows)
