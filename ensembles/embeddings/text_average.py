"""The fitted mapping from texts to pooled vectors: tokenization, weights and rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from ensembles._typing import Float32
from ensembles.embeddings.pooling.builtin import Pooling, apply_poolings
from ensembles.embeddings.pooling.engine import (
    Divide,
    PoolingSpec,
    embed_texts,
    pooling_spec,
)
from ensembles.embeddings.postprocessing.projection import Projection, project
from ensembles.embeddings.postprocessing.quantization import l2_normalize
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import TextBatch, as_batches
from ensembles.embeddings.vectors.lookup import VocabularyLookup


@dataclass(frozen=True, eq=False)
class TextAverager:
    """Maps texts to pooled vectors, with everything that `fit` learned.

    Parameters
    ----------
    lookup : VocabularyLookup
        Tokenizer and vector table.
    rules : tuple of Pooling
        Poolings; their results are concatenated.
    rule_params : dict of rule name to its parameters
        Keyword arguments of each rule, e.g. ``{"power_mean": {"p": 3}}``.
    weights : ndarray of shape (n_rows,), float32, or None, default=None
        Weight of each row of the table. None weighs every word equally.
    oov_weight : float, default=1.0
        Weight of an out-of-vocabulary word whose vector is composed of n-grams.
    divide : {"weights", "count"}, default="weights"
        Divisor of weighted sums: the sum of the weights, or the number of known words.
    """

    lookup: VocabularyLookup
    rules: tuple[Pooling, ...]
    rule_params: dict[str, dict[str, Any]]
    weights: Float32 | None = None
    oov_weight: float = 1.0
    divide: Divide = "weights"

    @property
    def n_columns(self) -> int:
        """Number of columns of the result."""
        return len(self.rules) * int(self.lookup.vectors.matrix.shape[1])

    @cached_property
    def _spec(self) -> PoolingSpec | None:
        """Arguments of the fused loops, or None if a rule or ``unknown`` needs more."""
        if self.lookup.unknown != "skip" or not all(rule.fused for rule in self.rules):
            return None
        return pooling_spec(
            self.lookup.vectors.matrix,
            rules=[rule.name for rule in self.rules],
            weights=self.weights,
            p=self.rule_params.get("power_mean", {}).get("p", 3),
            divide=self.divide,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Fields only: a pickled cache would be a second copy of the table."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __call__(
        self,
        texts: Any,
        n_threads: int | None,
        coverage: Coverage | None = None,
        *,
        normalize: bool = False,
    ) -> Float32:
        """Vectors of texts, of shape (n_texts, n_columns), float32.

        Token counts are added to ``coverage`` if it is not None. With ``normalize``
        the vectors are L2-normalized.
        """
        if self._spec is not None:
            return embed_texts(
                *(texts, self.lookup.row_tokenizer, self._spec),
                n_threads=n_threads,
                coverage=coverage,
                normalize=normalize,
            )
        blocks = list(self.blocks(as_batches(texts), n_threads, coverage))
        empty = np.empty((0, self.n_columns), np.float32)
        vectors = np.concatenate([empty, *blocks])
        return l2_normalize(vectors) if normalize else vectors

    def projected(
        self,
        texts: Any,
        n_threads: int | None,
        projection: Projection | None,
        *,
        normalize: bool,
        coverage: Coverage | None = None,
    ) -> Float32:
        """Vectors of texts after a projection, and then L2-normalization."""
        if projection is None:  # normalized while they are in the processor's cache
            return self(texts, n_threads, coverage, normalize=normalize)
        vectors = self(texts, n_threads, coverage)
        return project(vectors, projection, normalize=normalize)

    def blocks(
        self,
        batches: list[TextBatch],
        n_threads: int | None,
        coverage: Coverage | None = None,
    ) -> Iterator[Float32]:
        """Yield the vectors of texts, block by block."""
        lookup = self.lookup
        for batch, ragged in lookup.iter_blocks(batches):
            table, weights = lookup.vectors.matrix, self.weights
            if lookup.unknown == "subword" and not lookup.uses_subword_tokenizer:
                ragged, table, used = lookup.with_ngram_rows(batch, ragged)
                if weights is not None:
                    used_weights = np.where(used >= 0, weights[used], self.oov_weight)
                    weights = used_weights.astype(np.float32)
            if coverage is not None:
                coverage.add(ragged)
            yield apply_poolings(
                ragged,
                table,
                self.rules,
                weights=weights,
                divide=self.divide,
                params=self.rule_params,
                n_threads=n_threads,
            )
