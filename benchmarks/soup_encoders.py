"""Fine-tunes of a sentence encoder for `bench_soups`, which are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np
from scipy.stats import rankdata

from ensembles.checkpoints import get_state
from ensembles.embeddings import paired_cosines, read_similarity_pairs
from ensembles.embeddings.similarity.evaluation import Pairs

BATCH_SIZE = 32
WARM_UP = 0.1  # share of the steps in which the learning rate rises


class Recipe(NamedTuple):
    """Hyperparameters of one fine-tune."""

    seed: int
    learning_rate: float
    n_epochs: float


RECIPES = (
    Recipe(0, 2e-5, 1),
    Recipe(1, 3e-5, 1),
    Recipe(2, 5e-5, 0.5),
    Recipe(3, 5e-5, 1),
    Recipe(4, 1e-4, 0.5),
    Recipe(5, 1.5e-4, 0.5),
    Recipe(6, 3e-5, 0.5),
    Recipe(7, 2e-4, 0.5),
)


def sets() -> dict[str, Pairs]:
    """Pairs for training, for selection and test, and shifted pairs."""
    folder = measuring.data() / "sts"
    return {
        "train": read_similarity_pairs(
            folder / "sts-train.csv", columns=("6", "7", "5")
        ),
        "dev": read_similarity_pairs(folder / "sts-dev.csv", columns=("6", "7", "5")),
        "shift": read_similarity_pairs(folder / "SICK_trial.txt"),
    }


def load(path: Path) -> Any:
    """Encoder read from a directory, without network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return SentenceTransformer(str(path), device="cpu", local_files_only=True)


def made(base: Path, folder: Path, train: Pairs) -> list[Path]:
    """Directories of the fine-tunes; existing ones are reused."""
    paths = []
    for recipe in RECIPES:
        path = folder / f"encoder-{recipe.seed}"
        if not (path / "modules.json").exists():
            print(time.strftime("%T"), "fine-tuning", recipe, flush=True)
            fine_tune(base, train, recipe).save(str(path), create_model_card=False)
        paths.append(path)
    return paths


def fine_tune(base: Path, pairs: Pairs, recipe: Recipe) -> Any:
    """Encoder after a pass over pairs, or a part of one, in random order."""
    import torch

    torch.manual_seed(recipe.seed)
    encoder = load(base).train()
    rng = np.random.default_rng(recipe.seed)
    n_steps = round(recipe.n_epochs * (len(pairs.scores) // BATCH_SIZE))
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=recipe.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / (WARM_UP * n_steps), 1 - step / n_steps),
    )
    for rows in batches(pairs, rng)[:n_steps]:
        optimizer.zero_grad()
        squared_error(encoder, encoder, *batch(pairs, rows)).backward()
        optimizer.step()
        schedule.step()
    return encoder.eval()


def batches(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Rows of full batches in random order, with texts of similar length."""
    lengths = np.array([len(text) for text in pairs.first])
    order = np.argsort(lengths + rng.uniform(0, 20, len(lengths)))
    n_batches = len(order) // BATCH_SIZE
    found = order[: n_batches * BATCH_SIZE].reshape(n_batches, BATCH_SIZE)
    return rng.permutation(found)


def batch(pairs: Pairs, rows: Sequence[int]) -> tuple[list[tuple[str, str]], Any]:
    """Pairs of texts and their human ratings, of a batch of rows."""
    texts = [(pairs.first[row], pairs.second[row]) for row in rows]
    return texts, np.asarray(pairs.scores)[rows]


def squared_error(encoder: Any, model: Any, texts: Any, scores: Any) -> Any:
    """Mean squared error of cosines; human ratings are from 0 to 5."""
    import torch

    first, second = (
        model(encoder.preprocess([pair[side] for pair in texts]))["sentence_embedding"]
        for side in (0, 1)
    )
    wanted = torch.as_tensor(np.asarray(scores), dtype=torch.float32) / 5
    return torch.nn.functional.mse_loss(torch.cosine_similarity(first, second), wanted)


class Similarities:
    """Cosines of an encoder on pairs, computed once for the same parameters."""

    def __init__(self, held: dict[str, Pairs]) -> None:
        self._held = held
        self._known: dict[bytes, dict[str, np.ndarray]] = {}

    def __call__(self, encoder: Any) -> dict[str, np.ndarray]:
        """Cosines by the name of the set."""
        state = get_state(encoder)
        key = b"".join(value.numpy().tobytes()[:4096] for value in state.values())
        if key not in self._known:
            self._known[key] = {
                name: paired_cosines(
                    encode(encoder, pairs.first), encode(encoder, pairs.second)
                )
                for name, pairs in self._held.items()
            }
        return self._known[key]


def encode(encoder: Any, texts: Sequence[str]) -> np.ndarray:
    """Vectors of texts."""
    return np.asarray(
        encoder.encode(list(texts), batch_size=64, show_progress_bar=False)
    )


def spearman(found: np.ndarray, scores: np.ndarray) -> float:
    """Rank correlation, times 100."""
    return 100 * float(np.corrcoef(rankdata(found), rankdata(scores))[0, 1])
