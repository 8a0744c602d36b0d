"""Parameters of routers: from hidden states or embeddings of prompts, or random."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.recipes.document import Expert
from ensembles.checkpoints.recipes.mixtures.hidden_states import (
    prompt_states,
    token_embeddings,
    tokenize,
)
from ensembles.checkpoints.views.perturbation import standard_normal, standard_uniform

# mergekit warns from a condition number of 5 on, which two experts have at this cosine.
SIMILAR = 12 / 13
SMALLEST = 1e-8  # norm that a vector is divided by


def random_rows(mode: str, shape: tuple[int, int], *, name: str, seed: int) -> Float64:
    """Router parameters that do not depend on prompts.

    Parameters
    ----------
    mode : {"random", "uniform_random"}
        Standard normal numbers, or uniform ones as `torch.nn.Linear` is initialized.
    shape : tuple of two int
        Number of experts and hidden size.
    name : str
        Name of the tensor.
    seed : int
        Seed.

    Returns
    -------
    ndarray of shape ``shape``
    """
    size = math.prod(shape)
    if mode == "random":
        return standard_normal(seed, name, 0, size).reshape(shape)
    uniform = 2 * standard_uniform(seed, name, 0, size) - 1
    return np.asarray(uniform.reshape(shape) / math.sqrt(shape[1]))


def prompted_rows(
    base: Checkpoint,
    experts: Sequence[Expert],
    mode: str,
    progress: Callable[[int], None],
) -> Float64:
    """Router parameters from the prompts of each expert, as in mergekit.

    Parameters
    ----------
    base : Checkpoint
        Model that the prompts run through.
    experts : sequence of Expert
        Experts with positive, and optionally negative, prompts.
    mode : str
        "hidden" or "hidden_last" takes the hidden state of a prompt's last token at the
        input of each layer, "hidden_avg" the mean over its tokens; "cheap_embed" the
        sum of the embeddings of all tokens, L2-normalized, for all layers.
    progress : callable
        Called with the number of bytes read since the last call.

    Returns
    -------
    ndarray of shape (n_layers, n_experts, hidden_size)
        Mean over the positive prompts minus mean over the negative ones, L2-normalized.
    """
    groups = [p for e in experts for p in (e.positive_prompts, e.negative_prompts)]
    prompts = [*dict.fromkeys(prompt for group in groups for prompt in group)]
    ids = dict(zip(prompts, tokenize(base, prompts), strict=True))
    if mode == "cheap_embed":
        vectors = [
            _embedding(base, [token for prompt in group for token in ids[prompt]])
            for group in groups
        ]
    else:
        average = mode == "hidden_avg"
        states = prompt_states(
            base, [*ids.values()], average=average, progress=progress
        )
        by_prompt = dict(zip(prompts, states, strict=True))
        zero = np.zeros(states.shape[1:])
        vectors = [
            np.mean([by_prompt[prompt] for prompt in group], axis=0) if group else zero
            for group in groups
        ]
    rows = [
        _normalized(positive - negative)
        for positive, negative in zip(vectors[::2], vectors[1::2], strict=True)
    ]
    return np.stack(rows, axis=1)


def _embedding(base: Checkpoint, ids: Sequence[int]) -> Float64:
    n_layers, width = base.config["num_hidden_layers"], base.config["hidden_size"]
    total = token_embeddings(base, ids).sum(0) if ids else np.zeros(width)
    return np.tile(_normalized(total), (n_layers, 1))


def _normalized(vectors: Float64) -> Float64:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, SMALLEST))


def similarity_notes(rows: Float64) -> Iterator[str]:
    """Note on experts whose rows of a router are almost the same.

    Parameters
    ----------
    rows : ndarray of shape (n_layers, n_experts, hidden_size)
        L2-normalized rows.

    Yields
    ------
    str
        At most one message, about the two most similar experts.
    """
    cosines = rows @ rows.swapaxes(1, 2)
    n_layers, n_experts = rows.shape[:2]
    cosines[:, np.arange(n_experts), np.arange(n_experts)] = -1
    n_similar = int((cosines > SIMILAR).any((1, 2)).sum())
    if n_similar:
        _, *pair = np.unravel_index(cosines.argmax(), cosines.shape)
        first, second = sorted(map(int, pair))
        yield (
            f"rows of the router are almost equal in {n_similar} of {n_layers} layers "
            f"(the cosine of experts {first} and {second} is {cosines.max():.3f}), so "
            "that some experts are rarely chosen: use prompts that differ more, or "
            "negative_prompts"
        )
