"""Embeddings of several models with a row for each token of one vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ensembles.checkpoints.compatibility.tied_weights import EMBEDDING, HEAD
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.views.rows import MEAN, ZERO, GatheredRows, mean_row
from ensembles.checkpoints.vocabulary.embeddings import vocabulary_axes
from ensembles.checkpoints.vocabulary.tokenizer import Tokenizer

Integers = np.ndarray[Any, Any]


class Model(NamedTuple):
    """A model with its tokenizer.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened model.
    tokenizer : Tokenizer
        Its tokenizer.
    axes : dict of str to int
        Axis of the tokens of each tensor that has one, see `vocabulary_axes`.
    n_rows : int
        Number of rows of these tensors.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    axes: dict[str, int]
    n_rows: int


@dataclass(frozen=True)
class TokenSource:
    """Embedding of a token in the models that lack it.

    Parameters
    ----------
    part : int
        Index of the model that it is copied from; `ZERO` for zeros.
    row : int, default=0
        Row in this model's embeddings.
    is_forced : bool, default=False
        Whether models that have the token get this embedding too.
    """

    part: int
    row: int = 0
    is_forced: bool = False


def model_of(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Model:
    """A model with the tensors that have a row for each token.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened model.
    tokenizer : Tokenizer
        Its tokenizer.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If the tensors are not found, see `vocabulary_axes`.
    """
    axes = vocabulary_axes(checkpoint, tokenizer.n_rows)
    name, axis = next(iter(axes.items()))
    return Model(checkpoint, tokenizer, axes, checkpoint.layout[name].shape[axis])


def token_rows(models: Sequence[Model], ids: Mapping[str, int]) -> Integers:
    """Row of each token of a vocabulary in each model.

    Parameters
    ----------
    models : sequence of Model
        Models with their tokenizers.
    ids : mapping of str to int
        Ids of the vocabulary.

    Returns
    -------
    ndarray of shape (n_models, n_rows), int64
        -1 where a model lacks a token, or has no row for it.
    """
    rows = np.full((len(models), max(ids.values()) + 1), -1, np.int64)
    positions = np.fromiter(ids.values(), np.int64, len(ids))
    for model, row in zip(models, rows, strict=True):
        model_ids = model.tokenizer.ids
        stored_rows = np.fromiter(
            (model_ids.get(token, -1) for token in ids), np.int64, len(ids)
        )
        stored_rows[stored_rows >= model.n_rows] = -1
        row[positions] = stored_rows
    return rows


def aligned(
    models: Sequence[Model],
    rows: Integers,
    *,
    base: int | None,
    sources: Mapping[int, TokenSource],
    n_padding: int,
) -> list[Checkpoint]:
    """Models whose embeddings have the rows of one vocabulary.

    A model that lacks a token gets the row of the only other model that has it; else
    that of the base, if it has it; else the mean of the rows of all models that do. A
    token of no model has zeros. These are the defaults of mergekit.

    Parameters
    ----------
    models : sequence of Model
        Members and base.
    rows : ndarray of shape (n_models, n_tokens)
        Row of each token in each model, see `token_rows`.
    base : int or None
        Index of the base; None without a base.
    sources : mapping of int to TokenSource
        Embeddings of single tokens, by id, in place of the defaults.
    n_padding : int
        Number of rows to add after those of the tokens; each is the mean of the others.

    Returns
    -------
    list of Checkpoint
        With the layout of ``models``, whose rows are read from them when needed.

    Raises
    ------
    ValueError
        If the rows of the models have different shapes; the message lists all tensors.
    """
    models = _with_tied_heads(models)
    layouts = [dict(model.checkpoint.layout) for model in models]
    problems: list[str] = []
    for name in dict.fromkeys(name for model in models for name in model.axes):
        holders = [i for i, model in enumerate(models) if name in model.axes]
        parts = [models[i].checkpoint.layout[name] for i in holders]
        axis = models[holders[0]].axes[name]
        if len({tensor.shape[axis + 1 :] for tensor in parts}) > 1:
            problems.append(_shape_problem(name, [models[i] for i in holders]))
            continue
        choices = _choices(rows, holders, base, sources)
        for layout, tensor in zip(
            (layouts[i] for i in holders),
            _gathered(parts, rows[holders], choices, axis, n_padding),
            strict=True,
        ):
            layout[name] = tensor
    if problems:
        raise ValueError("\n".join(problems))
    return [
        replace(model.checkpoint, layout=layout, order=model.checkpoint.names)
        for model, layout in zip(models, layouts, strict=True)
    ]


def _with_tied_heads(models: Sequence[Model]) -> list[Model]:
    """Models with an output layer of their own where another one has it.

    Rows of tokens that a model lacks are those of the other output layer, and not of
    the embeddings that its own is tied to.
    """
    models = [_with_separate_names(model, models) for model in models]
    heads = {n: a for model in models for n, a in model.axes.items() if _is_head(n)}
    changed = []
    for model in models:
        stored = model.checkpoint
        embeddings = [n for n in model.axes if EMBEDDING.fullmatch(n)]
        added = {n: a for n, a in heads.items() if stored.tensor(n) is None}
        holders = [other.checkpoint for other in models if added.keys() & other.axes]
        if added and embeddings and any(_ties(stored, other) for other in holders):
            tied = stored.layout[embeddings[0]]
            layout = {**stored.layout, **dict.fromkeys(added, tied)}
            axes = {**model.axes, **added}
            model = model._replace(checkpoint=replace(stored, layout=layout), axes=axes)
        changed.append(model)
    return changed


def _with_separate_names(model: Model, models: Sequence[Model]) -> Model:
    """A model with tensors of their own for tied names that another one stores."""
    stored = model.checkpoint
    separate = {
        name: tied
        for name, tied in stored.aliases.items()
        if tied in model.axes and any(name in other.axes for other in models)
    }
    if not separate:
        return model
    layout = stored.layout | {n: stored.layout[tied] for n, tied in separate.items()}
    aliases = {n: tied for n, tied in stored.aliases.items() if n not in separate}
    axes = model.axes | {n: model.axes[tied] for n, tied in separate.items()}
    checkpoint = replace(stored, layout=layout, aliases=aliases, order=stored.names)
    return model._replace(checkpoint=checkpoint, axes=axes)


def _is_head(name: str) -> bool:
    return name.endswith("weight") and HEAD.fullmatch(name) is not None


def _ties(model: Checkpoint, other: Checkpoint) -> bool:
    """Whether loading ties the output layer of a model that does not store it."""
    for config in (model.config, model.config.get("text_config")):
        if isinstance(config, dict) and "tie_word_embeddings" in config:
            return bool(config["tie_word_embeddings"])
    architectures = model.config.get("architectures")
    return bool(architectures) and architectures == other.config.get("architectures")


class _Choices(NamedTuple):
    """Part and row of each token for the models that lack it, and forced tokens."""

    part: Integers
    row: Integers
    is_forced: Integers


def _choices(
    rows: Integers,
    holders: Sequence[int],
    base: int | None,
    sources: Mapping[int, TokenSource],
) -> _Choices:
    """Embeddings of the tokens that some models lack, numbered among ``holders``."""
    holder_rows = rows[list(holders)]
    has = holder_rows >= 0
    part = np.where(has.sum(0) == 0, ZERO, MEAN)
    if base in holders:
        position = holders.index(base)
        part[has[position]] = position
    is_single = has.sum(0) == 1
    part[is_single] = has.argmax(0)[is_single]
    row = holder_rows[np.maximum(part, 0), np.arange(len(part))]
    is_forced = np.zeros(len(part), bool)
    for token, source in sources.items():
        if source.part == ZERO or source.part in holders:
            is_zero = source.part == ZERO
            part[token] = ZERO if is_zero else holders.index(source.part)
            row[token], is_forced[token] = source.row, source.is_forced
    return _Choices(part, row, is_forced)


def _gathered(
    parts: Sequence[Tensor],
    rows: Integers,
    choices: _Choices,
    axis: int,
    n_padding: int,
) -> Iterator[Tensor]:
    """Tensor of each model, with the rows of the vocabulary."""
    is_whole = np.array_equal(rows[0], np.arange(parts[0].shape[axis]))
    if is_whole and not n_padding and _are_equal(parts, rows, choices):
        yield from parts
        return
    for number, model_rows in enumerate(rows):
        keeps = (model_rows >= 0) & ~choices.is_forced
        part = np.where(keeps, number, choices.part)
        row = np.where(keeps, model_rows, choices.row)
        tensor = GatheredRows(parts, part, row, rows, axis=axis).tensor
        if n_padding:
            mean = mean_row(tensor, axis=axis)
            n_tokens = len(part)
            part = np.concatenate([np.zeros(n_tokens, int), np.ones(n_padding, int)])
            row = np.concatenate([np.arange(n_tokens), np.zeros(n_padding, int)])
            both = [tensor, mean]
            tensor = GatheredRows(both, part, row, row[None], axis=axis).tensor
        yield tensor


def _are_equal(parts: Sequence[Tensor], rows: Integers, choices: _Choices) -> bool:
    """Whether the rows of all tensors are the same tokens, and none is replaced."""
    return (
        bool((rows == rows[0]).all())
        and not choices.is_forced.any()
        and len({(tensor.shape, tensor.dtype) for tensor in parts}) == 1
    )


def _shape_problem(name: str, models: Sequence[Model]) -> str:
    shapes = ", ".join(
        f"{model.checkpoint.name} has {model.checkpoint.layout[name].shape}"
        for model in models
    )
    return (
        f"models with one vocabulary must have the same hidden size at tensor "
        f"{name!r}: {shapes}; rows of one model are no embeddings of another"
    )
