"""Ids of special tokens in the configurations of a model with another tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ensembles.checkpoints.vocabulary.tokenizer import Tokenizer

KEY = re.compile(r".*_token_(ids?|index)|token_id|(begin_)?suppress_tokens")


def with_token_ids(
    config: Mapping[str, Any], old: Tokenizer, new: Tokenizer, owner: Mapping[str, Any]
) -> dict[str, Any]:
    """Configuration whose ids of special tokens are those of another tokenizer.

    Parameters
    ----------
    config : mapping of str to value
        Content of ``config.json`` or ``generation_config.json``.
    old : Tokenizer
        Tokenizer that the ids of ``config`` belong to.
    new : Tokenizer
        Tokenizer of the result.
    owner : mapping of str to value
        Configuration of the model that the new tokenizer comes from, whose ids are
        taken over; other ids are translated by their token.

    Returns
    -------
    dict of str to value
        None in place of tokens that the new tokenizer does not have.
    """
    tokens = {index: token for token, index in old.ids.items()}
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            inner = owner.get(key)
            entries = inner if isinstance(inner, Mapping) else {}
            changed[key] = with_token_ids(value, old, new, entries)
        elif KEY.fullmatch(key):
            changed[key] = owner.get(key, _translated(value, tokens, new.ids))
        else:
            changed[key] = value
    return changed


def ids_in_tokenizer_config(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the special tokens that ``tokenizer_config.json`` names.

    Parameters
    ----------
    tokenizer : Tokenizer
        The tokenizer.

    Returns
    -------
    dict of str to int
        By the key of a model's configuration, such as ``eos_token_id``.
    """
    ids = {}
    for key, token in tokenizer.config.items():
        content = token.get("content") if isinstance(token, dict) else token
        if key.endswith("_token") and content in tokenizer.ids:
            ids[f"{key}_id"] = tokenizer.ids[content]
    return ids


def _translated(value: Any, tokens: Mapping[int, str], ids: Mapping[str, int]) -> Any:
    if isinstance(value, list):
        new = [_translated(entry, tokens, ids) for entry in value]
        return [entry for entry in new if entry is not None]
    if isinstance(value, int) and not isinstance(value, bool):
        return ids.get(tokens.get(value, ""))
    return value
