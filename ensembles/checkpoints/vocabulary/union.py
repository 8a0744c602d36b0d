"""Tokenizers with more tokens, or without the tokens that a model has no rows for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ensembles.checkpoints.vocabulary.tokenizer import (
    CONFIG,
    COPIES,
    PLAIN,
    TOKENIZER,
    Tokenizer,
    token_ids,
)

Entry = dict[str, Any]


def union(tokenizers: Sequence[Tokenizer], n_rows: Sequence[int]) -> Tokenizer:
    """The first tokenizer with the tokens of all others.

    Its own tokens keep their ids; the others are added tokens, as mergekit adds them:
    first those of the models in the order of their ids, then added tokens.

    Parameters
    ----------
    tokenizers : sequence of Tokenizer
        Tokenizers of the base and the members; the base is the first.
    n_rows : sequence of int
        Number of rows of each model's embeddings; tokens beyond are left out.

    Returns
    -------
    Tokenizer
    """
    words: dict[str, Entry] = {}
    added: dict[str, Entry] = {}
    for tokenizer, n in zip(tokenizers, n_rows, strict=True):
        properties = tokenizer.added
        for token in sorted(tokenizer.ids, key=tokenizer.ids.__getitem__):
            if tokenizer.ids[token] >= n:
                continue
            if token in properties:
                added.setdefault(token, properties[token])
            elif token not in tokenizers[0].ids:
                words.setdefault(token, PLAIN)
    entries = {token: entry for token, entry in words.items() if token not in added}
    return with_tokens(tokenizers[0], {**entries, **added})


def with_tokens(tokenizer: Tokenizer, tokens: Mapping[str, Entry]) -> Tokenizer:
    """A tokenizer with further added tokens.

    Parameters
    ----------
    tokenizer : Tokenizer
        The tokenizer; its tokens keep their ids.
    tokens : mapping of str to dict
        Properties of each token, see ``added_tokens`` in ``tokenizer.json``; tokens
        that are added tokens already are not changed.

    Returns
    -------
    Tokenizer
    """
    before = tokenizer.added
    new = {token: entry for token, entry in tokens.items() if token not in before}
    if not new:
        return tokenizer
    stored = [
        {**entry, "id": tokenizer.ids[entry["content"]]} for entry in before.values()
    ]
    entries = [{"content": token, **PLAIN, **entry} for token, entry in new.items()]
    data = {**tokenizer.data, "added_tokens": [*stored, *entries]}
    ids = token_ids(data)
    for entry in entries:
        entry["id"] = ids[entry["content"]]
    data["added_tokens"].sort(key=lambda entry: entry["id"])
    return rewritten(tokenizer, data)


def without_tokens(tokenizer: Tokenizer, n_rows: int) -> Tokenizer:
    """A tokenizer without the tokens that the embeddings have no row for.

    Parameters
    ----------
    tokenizer : Tokenizer
        The tokenizer.
    n_rows : int
        Number of rows of the embeddings.

    Returns
    -------
    Tokenizer

    Raises
    ------
    ValueError
        If tokens would have to be removed from a model other than BPE.
    """
    unused = {token for token, index in tokenizer.ids.items() if index >= n_rows}
    if not unused:
        return tokenizer
    data = tokenizer.data
    model = data["model"]
    in_model = unused - tokenizer.added.keys()
    if in_model and not isinstance(model["vocab"], dict):
        raise ValueError(
            f"{tokenizer.name} has {n_rows} rows of embeddings for "
            f"{len(tokenizer.ids)} tokens, and its {model['type']} tokenizer cannot "
            f"lose tokens such as {min(in_model)!r}; resize the embeddings to the "
            "tokenizer first (resize_token_embeddings)"
        )
    if in_model:
        vocab = {t: index for t, index in model["vocab"].items() if t not in unused}
        model = {**model, "vocab": vocab}
        if "merges" in model:
            model["merges"] = [m for m in model["merges"] if not _uses(m, unused)]
    entries = [e for t, e in tokenizer.added.items() if t not in unused]
    return rewritten(tokenizer, {**data, "model": model, "added_tokens": entries})


def _uses(merge: Any, tokens: set[str]) -> bool:
    """Whether a merge of two tokens reads or makes one of some tokens."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    return not tokens.isdisjoint([*pair, "".join(pair)])


def rewritten(tokenizer: Tokenizer, data: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer with another ``tokenizer.json``, and files that agree with it.

    Parameters
    ----------
    tokenizer : Tokenizer
        The tokenizer.
    data : mapping
        New content of ``tokenizer.json``.

    Returns
    -------
    Tokenizer
        Without the files of other tokenizer classes, such as ``vocab.json``, that
        would have the old tokens.
    """
    files = {n: text for n, text in tokenizer.files.items() if not COPIES.fullmatch(n)}
    files[TOKENIZER] = _encoded(data)
    ids = token_ids(data)
    config = tokenizer.config
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = {
            str(ids[entry["content"]]): {k: v for k, v in entry.items() if k != "id"}
            for entry in data["added_tokens"]
        }
        files[CONFIG] = _encoded(config)
    added = {entry["content"]: entry for entry in data["added_tokens"]}
    return Tokenizer(tokenizer.name, ids, added, files)


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def unreachable(tokens: Iterable[str]) -> list[str]:
    """Added tokens with the marks of a tokenizer's model in place of spaces.

    Parameters
    ----------
    tokens : iterable of str
        Tokens that were words of a model, and are added tokens of another one.

    Returns
    -------
    list of str
        Tokens such as ``Ġthe``, ``▁the`` and ``##ing``: added tokens are looked for in
        the text itself, which does not have these marks.
    """
    marks = ("Ġ", "▁", "##", "Ċ", "ĉ")
    return [t for t in tokens if any(mark in t for mark in marks)]
