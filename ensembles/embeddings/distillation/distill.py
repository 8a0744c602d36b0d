"""`distill`: a table of token vectors whose means approximate a teacher's vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.base import check_texts
from ensembles.embeddings.distillation.refinement import refine
from ensembles.embeddings.distillation.ridge import fit_ridge
from ensembles.embeddings.distillation.teacher_vectors import teacher_vectors
from ensembles.embeddings.distillation.teachers import open_teacher, tokenizer_of
from ensembles.embeddings.distillation.vocabulary import (
    make_vocabulary,
    sif_weights,
    token_texts,
    tokenize,
)
from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.tokenization.texts import as_batches, decode_utf8

Progress = Callable[[str, int, int], None]


def distill(
    teacher: Any,
    texts: Iterable[str],
    *,
    tokenizer: Any = None,
    n_words: int = 100_000,
    alpha: float = 0.03,
    n_iter: int = 10,
    n_epochs: int = 2,
    n_components: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> SentenceEmbedder:
    model = open_teacher(teacher)
    batches = as_batches(check_texts(texts))
    rows = [text for batch in batches for text in decode_utf8(batch)]
    unique: dict[str, int] = {}
    for text in rows:
        if text.strip():
            unique[text] = unique.get(text, 0) + 1
    kept = list(unique)
    weights = np.fromiter(unique.values(), np.float32, len(unique))
    n_threads = 1 if n_jobs is None else int(effective_n_jobs(n_jobs))
    path = None if cache is None else Path(cache)
    targets, _ = teacher_vectors(model, kept, cache=path, n_threads=n_threads)
    vectors = make_vocabulary(tokenizer, tokenizer_of(model), kept, n_words)
    tokens = tokenize(vectors, kept)
    prior, _ = teacher_vectors(
        model, token_texts(vectors), cache=path, n_threads=n_threads
    )
    table = prior.astype(np.float32) * sif_weights(tokens, len(prior))[:, None]
    table = fit_ridge(
        *(tokens, targets, table),
        **{"alpha": alpha, "n_iter": n_iter, "weights": weights},
        n_threads=n_threads,
    )
    table = refine(
        tokens, targets, table, n_epochs=n_epochs, weights=weights, seed=seed
    )
    vectors = replace(vectors, matrix=table)
    return SentenceEmbedder(vectors, weights=None, normalize=True, n_jobs=n_jobs).fit()
