"""Find the tensors of a model that have a row for each token of its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.tied_weights import EMBEDDING, HEAD, POSITION
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor

# Names of the size of the vocabulary in configurations.
SIZES = ("vocab_size", "padded_vocab_size")
# Configurations of parts without tokens of a tokenizer.
OTHER_PARTS = re.compile(r".*(vision|audio|vq|codec).*")
BIAS = re.compile(r".*(predictions|lm_head|final_logits)[._]bias|final_logits_bias")
IN_LAYER = re.compile(r".*\.\d+\..*")


def vocabulary_axes(checkpoint: Checkpoint, n_tokens: int) -> dict[str, int]:
    """Tensors with a row for each token: embeddings, output layers and their biases.

    Parameters
    ----------
    checkpoint : Checkpoint
        Model with its configuration.
    n_tokens : int
        Number of rows that its tokenizer needs; there may be more or fewer.

    Returns
    -------
    dict of str to int
        Axis of the tokens of each tensor, by name; all axes before it have size 1.

    Raises
    ------
    ValueError
        If no tensor has as many rows as the configuration says, or another tensor may
        have a row for each token too.
    """
    n_rows = n_vocabulary_rows(checkpoint, n_tokens)
    axes = {}
    for name, tensor in checkpoint.layout.items():
        axis = _axis(tensor, n_rows) if _may_have_tokens(name, tensor) else None
        if axis is not None:
            axes[name] = axis
    candidates = {
        name: tensor.shape
        for name, tensor in checkpoint.layout.items()
        if name not in axes and _may_have_tokens(name, tensor)
    }
    shown = [f"{name} {shape}" for name, shape in candidates.items()]
    if not any(EMBEDDING.fullmatch(name) or HEAD.fullmatch(name) for name in axes):
        raise ValueError(
            f"{checkpoint.name} must have embeddings with {n_rows} rows, the size of "
            f"its vocabulary, found {listed(shown) or 'no embeddings'}"
        )
    if large := [f"{n} {s}" for n, s in candidates.items() if s[0] >= n_tokens > 0]:
        raise ValueError(
            f"{checkpoint.name} has {n_rows} tokens by its configuration, and other "
            f"tensors with a row for each of its {n_tokens} tokens, whose rows cannot "
            f"be matched: {listed(large)}"
        )
    return axes


def n_vocabulary_rows(checkpoint: Checkpoint, n_tokens: int) -> int:
    """Number of rows of a model's embeddings.

    Parameters
    ----------
    checkpoint : Checkpoint
        Model with its configuration.
    n_tokens : int
        Number of rows that its tokenizer needs.

    Returns
    -------
    int
        The size of the vocabulary in the configuration; without one, the rows of the
        embeddings, if all have as many.

    Raises
    ------
    ValueError
        If neither says it.
    """
    sizes = {size for _, size in vocabulary_sizes(checkpoint.config)}
    if len(sizes) == 1:
        return sizes.pop()
    rows = {
        tensor.shape[0]
        for name, tensor in checkpoint.layout.items()
        if len(tensor.shape) == 2
        and _may_have_tokens(name, tensor)
        and (tensor.shape[0] in sizes if sizes else tensor.shape[0] >= n_tokens)
    }
    if len(rows) != 1:
        shown_sizes = ", ".join(map(str, sorted(sizes))) or "none"
        n_rows = ", ".join(map(str, sorted(rows))) or "no"
        raise ValueError(
            f"config.json of {checkpoint.name} must have the size of the vocabulary "
            f"(vocab_size), found {shown_sizes}, and embeddings with {n_rows} rows"
        )
    return rows.pop()


def vocabulary_sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Keys and values of the size of the vocabulary, also in nested configurations.

    Parameters
    ----------
    config : mapping of str to value
        Content of ``config.json``.

    Yields
    ------
    (str, int)
        Key, with dots between nested keys, and value.
    """
    for key, value in config.items():
        if key in SIZES and isinstance(value, int):
            yield key, value
        elif isinstance(value, Mapping) and not OTHER_PARTS.fullmatch(key):
            for inner, size in vocabulary_sizes(value):
                yield f"{key}.{inner}", size


def resized(config: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """Configuration with another size of the vocabulary.

    Parameters
    ----------
    config : mapping of str to value
        Content of ``config.json``.
    n_rows : int
        New number of rows of the embeddings.

    Returns
    -------
    dict of str to value
    """
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if key in SIZES and isinstance(value, int):
            changed[key] = n_rows
        elif isinstance(value, Mapping) and not OTHER_PARTS.fullmatch(key):
            changed[key] = resized(value, n_rows)
        else:
            changed[key] = value
    return changed


def _may_have_tokens(name: str, tensor: Tensor) -> bool:
    """Whether a name is that of an embedding, an output layer or its bias."""
    if IN_LAYER.fullmatch(name) or POSITION.fullmatch(name):
        return False
    if len(tensor.shape) == 2 and not BIAS.fullmatch(name):
        return bool(EMBEDDING.fullmatch(name) or HEAD.fullmatch(name))
    is_bias = name.endswith("bias") and len(tensor.shape) <= 2
    return is_bias and bool(HEAD.fullmatch(name) or BIAS.fullmatch(name))


def _axis(tensor: Tensor, n_rows: int) -> int | None:
    """First axis with a number of rows, if all before it have size 1."""
    for axis, size in enumerate(tensor.shape):
        if size == n_rows:
            return axis
        if size != 1:
            return None
    return None
