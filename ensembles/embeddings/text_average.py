"""Texts to vectors, with all that has been learned: rows, weights, rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from ensembles.embeddings.weighting.builtin import Weighting


@dataclass(frozen=True, eq=False)
class Average:
    """What is done with the words of a text.

    Parameters
    ----------
    rows : Rows
    rules : tuple of Pooling
    weights : ndarray of shape (n_rows,), float32, or None
    unmet : float
        Weight of a word without a row, where n-grams make up its vector.
    divide : {"weights", "count"}
    params : dict of rule name to its parameters
    """

    rows: Rows
    rules: tuple[Pooling, ...]
    weights: Float32 | None
    unmet: float
    divide: Divide
    params: dict[str, dict[str, Any]]

    @property
    def n_columns(self) -> int:
        """Columns of the result."""
        return len(self.rules) * int(self.rows.vectors.matrix.shape[1])

    @cached_property
    def _prepared(self) -> Prepared | None:
        """All that is done where loops from texts to vectors are enough, else None."""
        if self.rows.unknown != "skip" or not all(rule.fused for rule in self.rules):
            return None
        names, p = [rule.name for rule in self.rules], self.params.get("power_mean", {})
        given = {"weights": self.weights, "p": p.get("p", 3), "divide": self.divide}
        return prepared(self.rows.vectors.matrix, names, **given)

    def __getstate__(self) -> dict[str, Any]:
        """All but what is cached: in a pickle it would be a second table."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __call__(
        self, texts: Any, n_threads: int | None, coverage: Coverage | None = None
    ) -> Float32:
        """Vectors of texts, of shape (n_texts, n_columns), float32.

        With ``coverage`` their tokens are counted there.
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
        """The same, some thousand texts at a time."""
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
                params=self.params,
                n_threads=n_threads,
            )


def split_params(
    params: Mapping[str, Any] | None,
    rules: tuple[Pooling, ...],
    weighting: Weighting | None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Parameters by the rule that takes them, and those of the weighting.

    Parameters
    ----------
    params : mapping or None
    rules : tuple of Pooling
    weighting : Weighting or None

    Returns
    -------
    dict of rule name to its parameters, dict of the weighting's

    Raises
    ------
    ValueError
        If nothing here takes one of them.
    """
    given = dict(params or {})
    known = {rule.name: rule.params for rule in rules}
    own = {} if weighting is None else weighting.params
    names = {name for rule in known.values() for name in rule} | set(own)
    for name in given:
        if name not in names:
            raise ValueError(
                f"params has {name!r}, which neither rule nor weights take (known "
                f"here: {', '.join(sorted(names)) or 'none'})"
            )
    by_rule = {
        rule: {name: given[name] for name in taken if name in given}
        for rule, taken in known.items()
    }
    for rule in rules:  # each says itself what is wrong
        rule.function(np.ones((1, 1)), np.ones(1), 1.0, **by_rule[rule.name])
    return by_rule, {name: given[name] for name in own if name in given}
