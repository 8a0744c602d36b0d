"""Give a model the tokenizer of another one."""

from __future__ import annotations

from ensembles.checkpoints.directories.open import Member, read_layout
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.vocabulary.alignment import Model, model_of
from ensembles.checkpoints.vocabulary.files import (
    with_tokenizer_files,
    with_vocabulary,
)
from ensembles.checkpoints.vocabulary.tokenizer import read_tokenizer
from ensembles.checkpoints.vocabulary.transplant import (
    METHODS,
    Method,
    shared_tokens,
    transplant_notes,
    transplanted,
)

N_SHARED = 64  # tokens that an embedding is estimated from


def transplant_tokenizer(
    model: Member, donor: Member, *, method: Method = "omp", k: int = N_SHARED
) -> Checkpoint:
    """A model with the tokenizer of another one, and embeddings that fit it.

    Tokens that both tokenizers have keep the embeddings of the model. Those of new
    tokens are estimated: train the model further, or test it, before it is used.

    Parameters
    ----------
    model : path or Checkpoint
        Directory of a model with its tokenizer and configuration.
    donor : path or Checkpoint
        Directory of the model with the new tokenizer; its hidden size may differ.
    method : {"omp", "mean", "zero"}, default="omp"
        How the embedding of a new token is estimated. "omp" approximates the donor's
        embedding by a weighted sum of the donor's embeddings of ``k`` shared tokens,
        by orthogonal matching pursuit, and adds up the model's embeddings of these
        tokens with the same weights. "mean" is the mean of all embeddings of the
        model, and "zero" zeros.
    k : int, default=64
        Number of shared tokens for "omp".

    Returns
    -------
    Checkpoint
        Model to write with `convert`, or a member of `average`. Embeddings are
        estimated when they are read; this needs memory for the rows of all shared and
        new tokens of both models.

    Raises
    ------
    FileNotFoundError
        If the model or the donor does not exist.
    ImportError
        If a tokenizer has no ``tokenizer.json``, and transformers is not installed.
    ValueError
        If a tokenizer or embeddings are not found, or the tokenizers have no token in
        common.

    References
    ----------
    Goddard & Fernandes Neto (2025), "Training-free tokenizer transplantation via
    orthogonal matching pursuit", arXiv:2506.06607.
    """
    if method not in METHODS:
        raise ValueError(
            f"method (--method) must be one of {', '.join(METHODS)}, found {method!r}"
        )
    if k < 1:
        raise ValueError(f"k (--k) must be at least 1, found {k}")
    recipient, source = _opened(model, "model"), _opened(donor, "donor")
    shared = shared_tokens(recipient, source)
    if not len(shared.donor_rows) and method == "omp":
        raise ValueError(
            f"the tokenizers of {recipient.checkpoint.name} and "
            f"{source.checkpoint.name} have no token in common that embeddings could "
            "be estimated from; pass method='mean' (--method mean)"
        )
    view = with_vocabulary(
        transplanted(recipient, source, shared, method=method, k=k),
        recipient.tokenizer,
        source.tokenizer,
        source.checkpoint,
        len(shared.model_rows),
    )
    view = with_tokenizer_files(view, source.tokenizer)
    view.notes = [
        *view.notes,
        *transplant_notes(recipient, source, shared, method, k),
    ]
    return view


def _opened(member: Member, role: str) -> Model:
    """A model with its tokenizer."""
    checkpoint = read_layout(member, 0)
    tokenizer = read_tokenizer(checkpoint)
    if tokenizer is None:
        raise ValueError(
            f"the {role} must be a directory with a tokenizer (tokenizer.json), found "
            f"none in {checkpoint.name}"
        )
    return model_of(checkpoint, tokenizer)
