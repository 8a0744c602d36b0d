"""The fitted mapping from texts to pooled vectors: tokenization, weights and rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from ensembles._typing import Float32
from ensembles.embeddings.pooling.builtin import Pooling, pooled
from ensembles.embeddings.pooling.engine import embed_by
from ensembles.embeddings.pooling.spec import Divide, Prepared, prepared
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import Part, parts_of
from ensembles.embeddings.vectors.lookup import Rows


@dataclass(frozen=True, eq=False)
class Average:
    """Maps texts to pooled vectors, with everything that `fit` learned.

    Parameters
    ----------
    rows : Rows
        Tokenizer and vector table.
    rules : tuple of Pooling
        Poolings; their results are concatenated.
    weights : ndarray of shape (n_rows,), float32, or None
        Weight of each row of the table. None weighs every word equally.
    unmet : float
        Weight of an out-of-vocabulary word whose vector is composed of n-grams.
    divide : {"weights", "count"}
        Divisor of weighted sums: the sum of the weights, or the number of known words.
    rule_params : dict of rule name to its parameters
        Keyword arguments of each rule, e.g. ``{"power_mean": {"p": 3}}``.
    """

    rows: Rows
    rules: tuple[Pooling, ...]
    weights: Float32 | None
    unmet: float
    divide: Divide
    rule_params: dict[str, dict[str, Any]]

    @property
    def n_columns(self) -> int:
        """Number of columns of the result."""
        return len(self.rules) * int(self.rows.vectors.matrix.shape[1])

    @cached_property
    def _prepared(self) -> Prepared | None:
        """Arguments of the fused loops, or None if a rule or ``unknown`` needs more."""
        if self.rows.unknown != "skip" or not all(rule.fused for rule in self.rules):
            return None
        names, p = (
            [rule.name for rule in self.rules],
            self.rule_params.get("power_mean", {}),
        )
        given = {"weights": self.weights, "p": p.get("p", 3), "divide": self.divide}
        return prepared(self.rows.vectors.matrix, names, **given)

    def __getstate__(self) -> dict[str, Any]:
        """Fields only: a pickled cache would be a second copy of the table."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __call__(
        self, texts: Any, n_threads: int | None, coverage: Coverage | None = None
    ) -> Float32:
        """Vectors of texts, of shape (n_texts, n_columns), float32.

        Token counts are added to ``coverage`` if it is not None.
        """
        if self._prepared is not None:
            how: dict[str, Any] = {"n_threads": n_threads, "coverage": coverage}
            return embed_by(self._prepared, texts, self.rows.tokens, **how)
        found = list(self.blocks(parts_of(texts), n_threads, coverage))
        return np.concatenate([np.empty((0, self.n_columns), np.float32), *found])

    def blocks(
        self,
        parts: list[Part],
        n_threads: int | None,
        coverage: Coverage | None = None,
    ) -> Iterator[Float32]:
        """Yields the vectors of texts, block by block."""
        for part, ragged in self.rows.ragged(parts):
            table, weights = self.rows.vectors.matrix, self.weights
            if self.rows.unknown == "subword" and not self.rows.by_piece:
                ragged, table, used = self.rows.composed(part, ragged)
                if weights is not None:
                    known = np.where(used >= 0, weights[used], self.unmet)
                    weights = known.astype(np.float32)
            if coverage is not None:
                coverage.add(ragged)
            yield pooled(
                ragged,
                table,
                self.rules,
                weights=weights,
                divide=self.divide,
                params=self.rule_params,
                n_threads=n_threads,
            )
