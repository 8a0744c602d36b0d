"""Files and configurations of a model with another tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.vocabulary.embeddings import resized
from ensembles.checkpoints.vocabulary.token_ids import (
    ids_in_tokenizer_config,
    with_token_ids,
)
from ensembles.checkpoints.vocabulary.tokenizer import FILES, Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"


def with_vocabulary(
    model: Checkpoint, old: Tokenizer, new: Tokenizer, origin: Checkpoint, n_rows: int
) -> Checkpoint:
    """A model whose configurations have the ids and the size of another vocabulary.

    Parameters
    ----------
    model : Checkpoint
        Model with its configurations.
    old : Tokenizer
        Its tokenizer.
    new : Tokenizer
        Tokenizer of the result.
    origin : Checkpoint
        Model that the new tokenizer comes from, or a directory with files alone.
    n_rows : int
        Number of rows of the embeddings.

    Returns
    -------
    Checkpoint
    """
    owner = origin.config or ids_in_tokenizer_config(new)
    contents = {}
    if CONFIG in model.files:
        config = with_token_ids(resized(model.config, n_rows), old, new, owner)
        contents[CONFIG] = _json(config)
    if GENERATION in origin.files:
        contents[GENERATION] = origin.read_file(GENERATION)
    elif GENERATION in model.files:
        generation = json.loads(model.read_file(GENERATION))
        contents[GENERATION] = _json(with_token_ids(generation, old, new, owner))
    return model.with_files(contents)


def with_tokenizer_files(model: Checkpoint, tokenizer: Tokenizer) -> Checkpoint:
    """A model with the files of a tokenizer in place of its old.

    Parameters
    ----------
    model : Checkpoint
        Model with its files.
    tokenizer : Tokenizer
        Tokenizer of the result.

    Returns
    -------
    Checkpoint
    """
    stale: dict[str, bytes | None] = {
        name: None for name in model.files if FILES.fullmatch(name)
    }
    return model.with_files({**stale, **tokenizer.files})


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
