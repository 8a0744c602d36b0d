"""Texts to vectors, with all that has been learned: rows, weights, rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32, Float64
from ensembles.embeddings.coverage import Coverage
from ensembles.embeddings.engine import embed_by
from ensembles.embeddings.pooling import POOLINGS, Pooling, pooled
from ensembles.embeddings.preparing import Divide, Prepared, prepared
from ensembles.embeddings.rows import Rows
from ensembles.embeddings.texts import Part, parts_of
from ensembles.embeddings.word_weights import WEIGHTINGS, Frequencies, Weighting
from ensembles.registry import lookup


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


def rules_of(rule: Any) -> tuple[Pooling, ...]:
    """Poolings of a name, or of several whose results stand side by side.

    Parameters
    ----------
    rule : str, Pooling, or sequence of them

    Returns
    -------
    tuple of Pooling

    Raises
    ------
    ValueError
        If there is none, or a name is unknown.
    """
    named = [rule] if isinstance(rule, str | Pooling) else list(rule)
    if not named:
        raise ValueError("rule must name at least one pooling, found none")
    return tuple(
        one if isinstance(one, Pooling) else lookup(POOLINGS, one) for one in named
    )


def weighting_of(weights: Any) -> Weighting | None:
    """Weighting of that name, None for weights that are given."""
    if isinstance(weights, str):
        return lookup(WEIGHTINGS, weights)
    return weights if isinstance(weights, Weighting) else None


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


def weights_of(
    weights: Any, frequencies: Frequencies | None, rows: Rows, params: dict[str, Any]
) -> tuple[Float32 | None, float]:
    """Weights of all rows, and that of a word which has none.

    Parameters
    ----------
    weights : str, Weighting, mapping of word to weight, array-like or None
    frequencies : Frequencies or None
        Not None for a weighting by name.
    rows : Rows
    params : dict
        The weighting's own.

    Returns
    -------
    ndarray of shape (n_rows,), float32, or None, and float

    Raises
    ------
    ValueError
        If a weight is negative or not finite.
    """
    n_rows = len(rows.vectors.tokens)
    weighting = weighting_of(weights)
    if weights is None:
        return None, 1.0
    if weighting is not None:
        if frequencies is None:
            raise ValueError(f"weights={weighting.name!r} must have frequencies")
        documents = frequencies.documents
        if weighting.needs == "documents" and documents is None:
            raise ValueError(
                f"weights={weighting.name!r} must have texts with known words in fit, "
                "to count in how many of them a word is met"
            )
        if weighting.needs == "nothing":  # ranks: a word never met has none
            return checked(weighting(frequencies, **params), n_rows), 1.0
        one_more = frequencies._replace(
            counts=np.append(frequencies.counts, 0.0),
            documents=None if documents is None else np.append(documents, 0.0),
        )
        found = weighting(one_more, **params)
        return checked(found[:-1], n_rows), float(found[-1])
    if isinstance(weights, Mapping):
        found = from_mapping(
            weights, rows.vectors.tokens, rows.vocabulary, lowercase=rows.lowercase
        )
        return checked(found, n_rows), 1.0
    return checked(weights, n_rows), 1.0


def from_mapping(
    weights: Mapping[str, float],
    tokens: Sequence[str],
    rows: Mapping[str, int],
    *,
    lowercase: bool = False,
) -> Float64:
    """Weights of rows from those of words; a word that is not named weighs 1.

    Parameters
    ----------
    weights : mapping of str to number, not negative
        One that makes up values, as a defaultdict, is asked for every word.
    tokens : sequence of str
    rows : mapping of str to row
    lowercase : bool, default=False
        Whether words that are named are put in small letters first.

    Returns
    -------
    ndarray of shape (n_rows,)
    """
    found = np.ones(len(tokens))
    if hasattr(weights, "__missing__"):
        for word, row in rows.items():
            found[row] = weights[word]
        return found
    for word, weight in weights.items():
        named = rows.get(word.lower() if lowercase else word)
        if named is not None:
            found[named] = weight
    return found


def checked(weights: Any, n_rows: int) -> NDArray[np.float32]:
    """One weight for each row, finite and not negative, in float32.

    Parameters
    ----------
    weights : array-like of shape (n_rows,)
    n_rows : int

    Returns
    -------
    ndarray of shape (n_rows,), float32

    Raises
    ------
    ValueError
    """
    found = np.asarray(weights, np.float64)
    if found.shape != (n_rows,):
        raise ValueError(
            f"weights must be one number for each of {n_rows} tokens, found shape "
            f"{found.shape}"
        )
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if len(wrong):
        raise ValueError(
            "weights must be finite and not negative: the weight of row "
            f"{wrong[0]} is {found[wrong[0]]}"
        )
    return found.astype(np.float32)
