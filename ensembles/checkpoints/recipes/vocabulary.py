"""The tokenizer of a recipe, and embeddings with a row for each of its tokens."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.recipes.document import Recipe, TokenEmbedding
from ensembles.checkpoints.recipes.model_paths import model_path
from ensembles.checkpoints.views.rows import ZERO
from ensembles.checkpoints.vocabulary.alignment import (
    Integers,
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
from ensembles.checkpoints.vocabulary.files import (
    CONFIG,
    with_tokenizer_files,
    with_vocabulary,
)
from ensembles.checkpoints.vocabulary.tokenizer import (
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

SHOWN = 3


class Retokenized(NamedTuple):
    """Models with one tokenizer.

    Parameters
    ----------
    models : dict of str to Checkpoint
        Models by their names in the recipe, each with the files of the tokenizer, and
        a configuration that agrees with it.
    notes : list of str
        Messages about tokens and rows that are added or left out.
    """

    models: dict[str, Checkpoint]
    notes: list[str]


def with_tokenizer(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Retokenized:
    """Models with the tokenizer and the chat template of a recipe.

    Parameters
    ----------
    recipe : Recipe
        The merge; without ``tokenizer`` and ``chat_template``, nothing is changed.
    models : mapping of str to Checkpoint
        All models of the merge and its base, by their names in the recipe.

    Returns
    -------
    Retokenized

    Raises
    ------
    ImportError
        If a tokenizer has no ``tokenizer.json``, and transformers is not installed.
    ValueError
        If a tokenizer is damaged, embeddings cannot be matched, or the recipe names
        tokens or models that do not exist.
    """
    if recipe.tokenizer is None and recipe.chat_template is None:
        return Retokenized(dict(models), [])
    try:
        return _with_tokenizer(recipe, models)
    except ValueError as error:
        line = recipe.tokenizer.line if recipe.tokenizer else recipe.line
        prefix = f"{recipe.path}:"
        problems = [
            text if text.startswith(prefix) else f"{prefix}{line}: {text}"
            for text in str(error).splitlines()
        ]
        raise ValueError("\n".join(problems)) from None


def _with_tokenizer(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Retokenized:
    notes: list[str] = []
    tokenizers = _tokenizers(recipe, models, notes)
    new = tokenizers[recipe.base_model or next(iter(models))]
    changed = dict(models)
    if recipe.tokenizer is not None:
        new, changed = _merged(recipe, models, tokenizers, notes)
    if recipe.chat_template is not None:
        template = chosen_template(recipe.chat_template, [*tokenizers.values()])
        if template is None:
            notes.append("no model has a chat template, and the result has none")
        else:
            new = with_template(new, template)
    return Retokenized(
        {name: with_tokenizer_files(model, new) for name, model in changed.items()},
        notes,
    )


def _tokenizers(
    recipe: Recipe, models: Mapping[str, Checkpoint], notes: list[str]
) -> dict[str, Tokenizer]:
    """Tokenizer of each model; a model without one has that of the base."""
    read: dict[str, Tokenizer] = {}
    for name, model in models.items():
        tokenizer = read_tokenizer(model)
        if tokenizer is not None:
            read[name] = tokenizer
    base = recipe.base_model or next(iter(models))
    if base not in read:
        raise ValueError(
            f"{models[base].name} must have a tokenizer (tokenizer.json), because "
            "the recipe has a tokenizer_source or a chat_template, found none"
        )
    if without := [models[name].name for name in models if name not in read]:
        noun = "this model has" if len(without) == 1 else "these models have"
        notes.append(
            f"{noun} no tokenizer: {listed(without)}; the tokens are taken to be those "
            f"of {models[base].name}"
        )
    return {name: read.get(name, read[base]) for name in models}


def _merged(
    recipe: Recipe,
    models: Mapping[str, Checkpoint],
    tokenizers: Mapping[str, Tokenizer],
    notes: list[str],
) -> tuple[Tokenizer, dict[str, Checkpoint]]:
    """Tokenizer of the result, and models with a row for each of its tokens."""
    settings = recipe.tokenizer
    assert settings is not None
    base = recipe.base_model or next(iter(models))
    entries = {name: model_of(models[name], tokenizers[name]) for name in models}
    origin = _origin(recipe, models)
    stored = tokenizers[base]
    if settings.source in ("union", "base"):
        new = without_tokens(stored, entries[base].n_rows)
    else:
        new = stored = _tokenizer_at(origin)
    if settings.source == "union":
        new = _union(new, base, entries, notes)
    tokens = [token for token in settings.tokens if token not in new.ids]
    new = with_tokens(new, dict.fromkeys(tokens, PLAIN))
    n_padding = -new.n_rows % (settings.pad_to_multiple_of or 1)
    rows = token_rows([*entries.values()], new.ids)
    views = aligned(
        [*entries.values()],
        rows,
        base=[*models].index(base) if recipe.base_model else None,
        sources=_token_sources(recipe, settings.tokens, entries, new),
        n_padding=n_padding,
    )
    notes += _notes(entries, rows, new, settings.tokens, n_padding)
    stale = [name for name in stored.files if name not in new.files]
    if stale:
        notes.append(
            f"{listed(stale)} of {stored.name} are left out: they have other tokens "
            "than the tokenizer.json of the result"
        )
    n_rows = new.n_rows + n_padding
    return new, {
        name: with_vocabulary(view, entries[name].tokenizer, new, origin, n_rows)
        for name, view in zip(models, views, strict=True)
    }


def _tokenizer_at(origin: Checkpoint) -> Tokenizer:
    tokenizer = read_tokenizer(origin)
    if tokenizer is None:
        raise ValueError(
            f"tokenizer_source must have a tokenizer, found none in {origin.name}"
        )
    return tokenizer


def _origin(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Checkpoint:
    """Model, or directory with files alone, that the tokenizer comes from."""
    source = recipe.tokenizer.source if recipe.tokenizer else "base"
    if source in ("union", "base"):
        return models[recipe.base_model or next(iter(models))]
    if source in models:
        return models[source]
    try:
        path = model_path(source)
    except FileNotFoundError as error:
        close = difflib.get_close_matches(source, ["union", "base", *models], 1)
        hint = f"; did you mean {close[0]!r}?" if close else f": {error}"
        raise ValueError(
            "tokenizer_source must be 'union', 'base', or the path of a model or a "
            f"directory with a tokenizer, found {source!r}{hint}"
        ) from None
    files = [entry.name for entry in path.iterdir() if entry.is_file()]
    config = read_json(path / CONFIG) if CONFIG in files else {}
    return Checkpoint(
        source, "", path, {}, is_directory=True, files=files, config=config
    )


def _union(
    base_tokenizer: Tokenizer,
    base: str,
    entries: Mapping[str, Model],
    notes: list[str],
) -> Tokenizer:
    """Union of the tokenizers, with a note on the tokens that are added."""
    others = [entry for name, entry in entries.items() if name != base]
    new = union(
        [base_tokenizer, *(entry.tokenizer for entry in others)],
        [entries[base].n_rows, *(entry.n_rows for entry in others)],
    )
    added = [token for token in new.ids if token not in base_tokenizer.ids]
    if not added:
        return new
    notes.append(
        f"the tokenizer of the result is that of {base_tokenizer.name} with "
        f"{len(added)} more tokens of the other models, such as "
        f"{listed([repr(t) for t in added], SHOWN)}: they are added tokens, which are "
        "found in a text before it is divided into words"
    )
    if hidden := unreachable(added):
        notes.append(
            f"{len(hidden)} of these tokens, such as {hidden[0]!r}, have marks in "
            "place of spaces, which no text has: they have rows of the embeddings, and "
            "no text is divided into them"
        )
    return new


def _token_sources(
    recipe: Recipe,
    tokens: Mapping[str, TokenEmbedding],
    entries: Mapping[str, Model],
    new: Tokenizer,
) -> dict[int, TokenSource]:
    """Embeddings of single tokens that the recipe names, by id."""
    names = [*entries]
    sources: dict[int, TokenSource] = {}
    problems: list[str] = []
    for token, setting in tokens.items():
        index, where = new.ids[token], f"{recipe.path}:{setting.line}: "
        if setting.is_zero:
            sources[index] = TokenSource(ZERO, 0, setting.force)
        elif setting.model is None:
            continue
        elif setting.model not in names:
            problems.append(
                f"{where}the embedding of token {token!r} must come from a model of "
                f"the recipe, found {setting.model!r} (models: {', '.join(names)})"
            )
        else:
            part = names.index(setting.model)
            row = _row_of(setting, token, entries[setting.model])
            if row is None:
                problems.append(where + _absent(setting, token, entries[setting.model]))
            else:
                sources[index] = TokenSource(part, row, setting.force)
    if problems:
        raise ValueError("\n".join(problems))
    return sources


def _row_of(setting: TokenEmbedding, token: str, entry: Model) -> int | None:
    """Row of the embeddings that a setting describes; None if there is none."""
    row = setting.token_id
    if row is None:
        row = entry.tokenizer.ids.get(setting.token or token, -1)
    return row if 0 <= row < entry.n_rows else None


def _absent(setting: TokenEmbedding, token: str, entry: Model) -> str:
    """Message about a row that does not exist."""
    wanted = f"id {setting.token_id}"
    if setting.token_id is None:
        wanted = repr(setting.token or token)
    return (
        f"the embedding of token {token!r} must be one of {setting.model}, which has "
        f"no token {wanted} among its {entry.n_rows} rows"
    )


def _notes(
    entries: Mapping[str, Model],
    rows: Integers,
    new: Tokenizer,
    tokens: Iterable[str],
    n_padding: int,
) -> Iterable[str]:
    for entry in entries.values():
        n_beyond = entry.n_rows - entry.tokenizer.n_rows
        if n_beyond > 0:
            yield (
                f"the embeddings of {entry.checkpoint.name} have {n_beyond} rows "
                f"beyond its {entry.tokenizer.n_rows} tokens, which are left out; "
                "pad_to_multiple_of adds rows to the result"
            )
    absent = (rows >= 0).sum(0) == 0
    named = {*tokens}
    without = [t for t, i in new.ids.items() if absent[i] and t not in named]
    if without:
        yield (
            f"{len(without)} tokens are in no model, and have embeddings of zero: "
            f"{listed([repr(token) for token in without], SHOWN)}"
        )
    if n_padding:
        yield (
            f"{n_padding} rows after the {new.n_rows} tokens are padding, the mean of "
            "the other rows"
        )
