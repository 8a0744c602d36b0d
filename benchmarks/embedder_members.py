"""Members for `bench_embedder_ensembles`: pairs, and fine-tunes that are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np
import soup_encoders
from safetensors import safe_open
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.frozen import FrozenEstimator
from tokenizers import Tokenizer

from ensembles.embeddings import SentenceEmbedder, WordVectors, read_similarity_pairs
from ensembles.embeddings.similarity.evaluation import Pairs

SHARE = 0.7  # of the training pairs, for fine-tuning; weights are chosen on the rest


class Task(NamedTuple):
    """Pairs of one data set: to fine-tune on, to choose weights on, to report."""

    tune: Pairs
    choose: Pairs
    report: Pairs


def tasks() -> dict[str, Task]:
    """Tasks by name; no pair is in two parts."""
    folder = measuring.data() / "sts"
    columns = ("6", "7", "5")
    sources = {
        "STS-B dev": (
            read_similarity_pairs(folder / "sts-train.csv", columns=columns),
            read_similarity_pairs(folder / "sts-dev.csv", columns=columns),
        ),
        "SICK trial": (
            read_similarity_pairs(folder / "SICK_train.txt"),
            read_similarity_pairs(folder / "SICK_trial.txt"),
        ),
    }
    found = {}
    for name, (train, report) in sources.items():
        order = np.random.default_rng(0).permutation(len(train.scores))
        cut = round(SHARE * len(order))
        found[name] = Task(rows(train, order[:cut]), rows(train, order[cut:]), report)
    return found


def rows(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    """Some of the pairs."""
    chosen = np.sort(chosen)
    first, second = ([side[row] for row in chosen] for side in pairs[:2])
    return Pairs(first, second, pairs.scores[chosen])


def fine_tunes(
    base: Path, folder: Path, found: dict[str, Task], n_epochs: float
) -> list[Path]:
    """Directories of three fine-tunes, of one set each and of both; kept."""
    sts, sick = (task.tune for task in found.values())
    both = Pairs(
        [*sts.first, *sick.first],
        [*sts.second, *sick.second],
        np.concatenate([sts.scores, sick.scores]),
    )
    paths = []
    for seed, (name, pairs) in enumerate(
        {"sts": sts, "sick": sick, "both": both}.items()
    ):
        path = folder / f"tuned-{name}"
        if not (path / "modules.json").exists():
            print(time.strftime("%T"), "fine-tuning", name, flush=True)
            recipe = soup_encoders.Recipe(seed, 5e-5, n_epochs)
            encoder = soup_encoders.fine_tune(base, pairs, recipe)
            encoder.save(str(path), create_model_card=False)
        paths.append(path)
    return paths


class KnownVectors(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transformer that looks vectors up, and asks a model for those of other texts."""

    def __init__(self, vectors: Any, rows: dict[str, int], model: Any) -> None:
        self.vectors, self.rows, self.model = vectors, rows, model
        backend = getattr(model, "model_", None)
        self.tokenizer = getattr(backend, "tokenizer", None)

    @classmethod
    def of(cls, model: Any, texts: list[str]) -> KnownVectors:
        """Vectors of a fitted model for all texts."""
        rows = {text: row for row, text in enumerate(texts)}
        return cls(model.transform(texts), rows, model)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any = None, y: Any = None) -> KnownVectors:
        """Return the transformer."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Vectors of texts, in float32."""
        texts = list(X)
        known = [row for row, text in enumerate(texts) if text in self.rows]
        other = [row for row, text in enumerate(texts) if text not in self.rows]
        out = np.empty((len(texts), self.vectors.shape[1]), np.float32)
        out[known] = self.vectors[[self.rows[texts[row]] for row in known]]
        if other:
            out[other] = self.model.transform([texts[row] for row in other])
        return out


def frozen(members: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Members that an ensemble does not fit again."""
    return [(name, FrozenEstimator(member)) for name, member in members]


def wordllama(folder: Path) -> SentenceEmbedder:
    """Table of the package wordllama, 256 dimensions, with its tokenizer."""
    tokenizer = Tokenizer.from_file(
        str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
    )
    with safe_open(folder / "weights" / "l2_supercat_256.safetensors", "np") as file:
        matrix = file.get_tensor("embedding.weight").astype(np.float32)
    ids = tokenizer.get_vocab()
    vectors = WordVectors(sorted(ids, key=ids.__getitem__), matrix, tokenizer=tokenizer)
    return SentenceEmbedder(vectors, weights=None, normalize=True).fit()
