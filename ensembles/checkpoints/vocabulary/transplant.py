"""A model with the tokenizer of another one; embeddings of new tokens are estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.tied_weights import HEAD
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.methods.matrices.blas import one_blas_thread
from ensembles.checkpoints.views.rows import (
    ZERO,
    ComputedTensor,
    GatheredRows,
    mean_row,
    read_rows,
)
from ensembles.checkpoints.vocabulary.alignment import Model
from ensembles.checkpoints.vocabulary.pursuit import matching_pursuit
from ensembles.checkpoints.vocabulary.words import words_of
from ensembles.dtypes import round_to_dtype

Method = Literal["omp", "mean", "zero"]
METHODS = ("omp", "mean", "zero")
Integers = np.ndarray[Any, Any]


class SharedTokens(NamedTuple):
    """Rows of the tokens that a model and a donor share.

    Parameters
    ----------
    model_rows : ndarray of shape (n_rows,), int64
        Row in the model of each row of the donor's tokenizer; -1 for new tokens.
    donor_rows : ndarray of shape (n_shared,), int64
        Rows of the donor that are shared and have an embedding there.
    """

    model_rows: Integers
    donor_rows: Integers


def shared_tokens(model: Model, donor: Model) -> SharedTokens:
    """Tokens that a model and a donor share, by their text.

    Parameters
    ----------
    model : Model
        Model whose tokenizer is replaced.
    donor : Model
        Model with the new tokenizer.

    Returns
    -------
    SharedTokens
    """
    rows: dict[object, int] = {}
    for token, word in words_of(model.tokenizer).items():
        row = model.tokenizer.ids[token]
        if row < model.n_rows:
            rows.setdefault(word, row)
    model_rows = np.full(donor.tokenizer.n_rows, -1, np.int64)
    for token, word in words_of(donor.tokenizer).items():
        model_rows[donor.tokenizer.ids[token]] = rows.get(word, -1)
    (shared,) = np.nonzero(model_rows >= 0)
    return SharedTokens(model_rows, shared[shared < donor.n_rows])


def transplanted(
    model: Model, donor: Model, shared: SharedTokens, *, method: Method, k: int
) -> Checkpoint:
    """A model whose embeddings have a row for each token of a donor's tokenizer.

    Tokens that both have keep their rows. Biases of new tokens are zero.

    Parameters
    ----------
    model : Model
        Model whose embeddings are replaced.
    donor : Model
        Model with the new tokenizer.
    shared : SharedTokens
        Tokens that both have.
    method : {"omp", "mean", "zero"}
        Rows of new tokens: the donor's row is approximated by ``k`` rows of shared
        tokens, and the model's rows of these tokens are added with the same
        coefficients; the mean of all rows; or zeros.
    k : int
        Number of tokens for "omp".

    Returns
    -------
    Checkpoint
        Estimated rows are computed when they are first read.
    """
    layout = dict(model.checkpoint.layout)
    (new,) = np.nonzero(shared.model_rows < 0)
    for name, axis in model.axes.items():
        tensor = layout[name]
        part = np.where(shared.model_rows >= 0, 0, ZERO)
        row = np.maximum(shared.model_rows, 0)
        parts = [tensor]
        is_matrix = tensor.size // tensor.shape[axis] > 1
        if method == "mean" and is_matrix:
            parts.append(mean_row(tensor, axis=axis))
            part[new], row[new] = 1, 0
        elif method == "omp" and is_matrix and len(new):
            matching = donor.checkpoint.layout[matching_name(name, donor)]
            compute = _estimate(tensor, matching, shared, new, k)
            shape = (len(new), tensor.shape[1])
            sources = [tensor, matching]
            estimate = ComputedTensor(compute, sources, tensor.dtype, shape)
            parts.append(estimate.tensor)
            part[new], row[new] = 1, np.arange(len(new))
        layout[name] = GatheredRows(parts, part, row, row[None], axis=axis).tensor
    return replace(model.checkpoint, layout=layout, order=model.checkpoint.names)


def matching_name(name: str, donor: Model) -> str:
    """Tensor of the donor with the same part: its output layer, or its embeddings.

    Parameters
    ----------
    name : str
        Embeddings or output layer of the model.
    donor : Model
        Donor; if it has no output layer of its own, its embeddings are the output
        layer.

    Returns
    -------
    str
    """
    layout = donor.checkpoint.layout
    matrices = [n for n, axis in donor.axes.items() if len(layout[n].shape) == 2 + axis]
    heads = [n for n in matrices if HEAD.fullmatch(n)]
    others = [n for n in matrices if n not in heads]
    wanted = [*heads, *others] if HEAD.fullmatch(name) else [*others, *heads]
    is_same_part = (name in heads) == (wanted[0] in heads)
    return name if name in matrices and is_same_part else wanted[0]


def _estimate(
    tensor: Tensor, matching: Tensor, shared: SharedTokens, new: Integers, k: int
) -> Callable[[], Array]:
    """Function that estimates the model's rows of new tokens."""

    def compute() -> Array:
        estimates = np.zeros((len(new), tensor.shape[1]), tensor.dtype)
        (present,) = np.nonzero(new < matching.shape[0])
        with one_blas_thread():
            sums = matching_pursuit(
                _take(matching, new[present]), _take(matching, shared.donor_rows), k
            )
            rows = _take(tensor, shared.model_rows[shared.donor_rows])
            for index, points, factors in zip(present, *sums, strict=True):
                row = factors @ rows[points].astype(np.float64)
                estimates[index] = round_to_dtype(row, tensor.dtype)
        return estimates

    return compute


def _take(tensor: Tensor, rows: Integers) -> Array:
    """Rows of a matrix."""
    view = GatheredRows([tensor], np.zeros(len(rows), int), rows, rows[None])
    return read_rows(view.tensor, 0, len(rows))


def transplant_notes(
    model: Model, donor: Model, shared: SharedTokens, method: Method, k: int
) -> list[str]:
    """Messages about the tokens that are shared and estimated.

    Parameters
    ----------
    model, donor, shared, method, k
        As in `transplanted`.

    Returns
    -------
    list of str
    """
    tokens = {index: token for token, index in donor.tokenizer.ids.items()}
    new = [
        tokens[int(i)]
        for i in np.flatnonzero(shared.model_rows < 0)
        if int(i) in tokens
    ]
    notes = [
        f"{len(tokens) - len(new)} of the {len(tokens)} tokens of "
        f"{donor.tokenizer.name} are tokens of {model.tokenizer.name} too, and keep "
        "its embeddings"
    ]
    if new:
        name = matching_name(next(iter(model.axes)), donor)
        n_points = min(
            k, len(shared.donor_rows), donor.checkpoint.layout[name].shape[1]
        )
        how = {
            "omp": f"each is estimated from {n_points} shared tokens",
            "mean": "each has the mean of all embeddings",
            "zero": "each has an embedding of zero",
        }
        shown = listed([repr(token) for token in new], 3)
        noun = "token is" if len(new) == 1 else "tokens are"
        notes.append(f"{len(new)} {noun} new, such as {shown}: {how[method]}")
    if n_without := sum(i >= donor.n_rows for i in tokens):
        notes.append(
            f"{n_without} tokens of {donor.tokenizer.name} have no row in its "
            "embeddings, and an embedding of zero unless they are shared"
        )
    return notes
