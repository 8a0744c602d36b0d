"""The tokenizer of a recipe, and embeddings whose rows are those of its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.recipes.document import Recipe
from ensembles.checkpoints.views.rows import ZERO
from ensembles.checkpoints.vocabulary.alignment import (
    Model,
    TokenSource,
    aligned,
    model_of,
    token_rows,
)
from ensembles.checkpoints.vocabulary.chat_templates import (
    chosen_template,
    with_template,
)
from ensembles.checkpoints.vocabulary.embeddings import resized
from ensembles.checkpoints.vocabulary.token_ids import (
    ids_in_tokenizer_config,
    with_token_ids,
)
from ensembles.checkpoints.vocabulary.tokenizer import (
    FILES,
    PLAIN,
    Tokenizer,
    read_tokenizer,
)
from ensembles.checkpoints.vocabulary.union import (
    union,
    unreachable,
    with_tokens,
    without_tokens,
)
from ensembles.regular_files import read_json

CONFIG, GENERATION = "config.json", "generation_config.json"


class Retokenized(NamedTuple):
    """Members and base with one tokenizer.

    Parameters
    ----------
    members : list of Checkpoint
        Members; the first one has the files of the tokenizer.
    base : Checkpoint or None
        Base; None without a base.
    notes : list of str
        Messages about tokens and rows that are added or left out.
    """

    members: list[Checkpoint]
    base: Checkpoint | None
    notes: list[str]


@dataclass(frozen=True)
class _Named:
    """A model of a recipe, with its name there."""

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer


def with_tokenizer(
    recipe: Recipe,
    members: Sequence[Checkpoint],
    base: Checkpoint | None,
    names: Sequence[str],
) -> Retokenized:
    """Members and base with the tokenizer and chat template of a recipe.

    Parameters
    ----------
    recipe : Recipe
        The merge; without ``tokenizer_source``, ``tokenizer`` and ``chat_template``,
        nothing is changed.
    members : sequence of Checkpoint
        Opened members.
    base : Checkpoint or None
        Opened base; None without a base.
    names : sequence of str
        Name of each member in the recipe.

    Returns
    -------
    Retokenized

    Raises
    ------
    ImportError
        If a tokenizer has no ``tokenizer.json``, and transformers is not installed.
    ValueError
        If a tokenizer is damaged, or embeddings cannot be matched.
    """
    settings = dict(recipe.tokenizer or {})
    if recipe.tokenizer_source is not None:
        settings["source"] = recipe.tokenizer_source
    if not (settings or recipe.chat_template):
        return Retokenized([*members], base, [])
    notes: list[str] = []
    models = _named(recipe, members, base, names, notes)
    if not settings:
        new = models[0].tokenizer
        files = dict(new.files)
        views = [model.checkpoint for model in models]
    else:
        new, files, views = _merged(settings, models, recipe, notes)
    if recipe.chat_template:
        template = chosen_template(recipe.chat_template, [m.tokenizer for m in models])
        if template is None:
            notes.append("no model has a chat template, and the result has none")
        else:
            files |= with_template(new, template).files
    ...
