"""Sentences to distill on, rated pairs, and the probe of `bench_distillation`."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import scipy.sparse as sp

from ensembles.embeddings import SentenceEmbedder, read_similarity_pairs
from ensembles.embeddings.distillation.overlap import WORD, Overlap, find_overlap
from ensembles.embeddings.distillation.teacher_vectors import teacher_vectors
from ensembles.embeddings.distillation.teachers import tokenizer_of
from ensembles.embeddings.similarity.evaluation import Pairs
from ensembles.embeddings.vectors.model_directory import with_tokenizer

N_PROBE, ALPHA, N_ITER = 400_000, 0.03, 10


def tasks() -> dict[str, Pairs]:
    """Rated pairs by name."""
    folder = measuring.data() / "sts"
    return {
        "STS-B dev": read_similarity_pairs(folder / "sts-dev.csv", ("6", "7", "5")),
        "SICK trial": read_similarity_pairs(folder / "SICK_trial.txt"),
        "STS-B es dev": read_similarity_pairs(folder / "stsb-es-dev.csv"),
    }


def english(limit: int | None) -> list[str]:
    """Lines of all files of unlabelled text, in the order of their names."""
    texts: list[str] = []
    for path in sorted((measuring.data() / "unlabelled").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts += file.read().removesuffix("\n").split("\n")
    return texts if limit is None else texts[:: -(-len(texts) // limit)]


def spanish(held: Pairs) -> list[str]:
    """Sentences of the Spanish STS-B train, unrated, without those of ``held``."""
    known = read_similarity_pairs(measuring.data() / "sts" / "stsb-es-train.csv")
    texts = list(dict.fromkeys([*known.first, *known.second]))
    words = {tuple(WORD.findall(t.lower())) for t in [*held.first, *held.second]}
    return [text for text in texts if tuple(WORD.findall(text.lower())) not in words]


def overlap(texts: list[str], pairs: Pairs) -> Overlap:
    """Sentences and sequences of five words of the pairs that occur in the texts."""
    return find_overlap(texts, [*pairs.first, *pairs.second])


def probe(teacher: Any, texts: list[str], cache: Path) -> SentenceEmbedder:
    """The plainest ridge regression: mean counts of the teacher's tokens, no prior."""
    vectors = teacher_vectors(teacher, texts, cache=cache / "texts").vectors
    chosen = np.sort(np.random.default_rng(0).permutation(len(texts))[:N_PROBE])
    targets = vectors[chosen].astype(np.float32)
    tokenizer = tokenizer_of(teacher)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown = tokenizer.token_to_id("[UNK]")
    ids = [
        [i for i in found.ids if i != unknown]
        for found in tokenizer.encode_batch_fast(
            [texts[row] for row in chosen], add_special_tokens=False
        )
    ]
    lengths = np.array([len(found) for found in ids])
    counts = sp.csr_matrix(
        (
            np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32),
            np.concatenate(ids).astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths)]),
        ),
        shape=(len(ids), tokenizer.get_vocab_size()),
    )
    table = ridge(counts, targets)
    found = with_tokenizer(table, tokenizer, preweighted=True, source="probe")
    return SentenceEmbedder(found, weights=None, normalize=True).fit()


def ridge(counts: Any, targets: Any) -> Any:
    """Ridge regression by conjugate gradients with Jacobi preconditioning."""
    counts.sum_duplicates()
    turned = counts.T.tocsr()
    diagonal = np.asarray(counts.multiply(counts).sum(axis=0)).ravel() + ALPHA
    scale = (1 / diagonal)[:, None].astype(np.float32)
    table = np.zeros((counts.shape[1], targets.shape[1]), np.float32)
    residual = turned @ targets
    direction = scale * residual
    size = (residual * direction).sum(axis=0)
    for _ in range(N_ITER):
        product = turned @ (counts @ direction) + ALPHA * direction
        step = size / np.maximum((direction * product).sum(axis=0), 1e-20)
        table += step * direction
        residual -= step * product
        better = scale * residual
        before, size = size, (residual * better).sum(axis=0)
        direction = better + size / np.maximum(before, 1e-20) * direction
    return table
