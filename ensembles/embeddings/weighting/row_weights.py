"""Weights of the rows of a vector table, from a weighting, an array or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._sklearn import check_mapping
from ensembles._typing import Float32, Float64
from ensembles.embeddings.vectors.lookup import VocabularyLookup
from ensembles.embeddings.weighting.builtin import (
    WEIGHTINGS,
    Weighting,
    WordFrequencies,
)
from ensembles.registry import lookup


def resolve_weighting(
    weights: Any, params: Mapping[str, Any] | None = None
) -> Weighting | None:
    """Look up a word weighting, and check the names of its parameters.

    Parameters
    ----------
    weights : str, Weighting, mapping of word to weight, array-like or None
        Name of a weighting, or explicit weights.
    params : mapping or None, default=None
        Values by parameter name. None uses the defaults.

    Returns
    -------
    Weighting or None
        None for explicit weights, such as an array.

    Raises
    ------
    ValueError
        If a name is unknown, or explicit weights are given parameters.
    TypeError
        If ``params`` is neither a mapping nor None.
    """
    weighting = lookup(WEIGHTINGS, weights) if isinstance(weights, str) else weights
    if not isinstance(weighting, Weighting):
        weighting = None
    names = {} if weighting is None else weighting.params
    for name in check_mapping("weights_params", params):
        if name not in names:
            owner = "no weighting" if weighting is None else repr(weighting.name)
            raise ValueError(
                f"weights_params must name parameters of {owner}: found {name!r} "
                f"(known: {', '.join(names) or 'none'})"
            )
    return weighting


def row_weights(
    weights: Any,
    frequencies: WordFrequencies | None,
    lookup: VocabularyLookup,
    params: dict[str, Any],
) -> tuple[Float32 | None, float]:
    """Compute the weights of all rows, and the weight of out-of-vocabulary words.

    Parameters
    ----------
    weights : str, Weighting, mapping of word to weight, array-like or None
        Name of a weighting, or explicit weights. None weighs every word equally.
    frequencies : WordFrequencies or None
        Word frequencies; None is allowed for explicit weights only.
    lookup : VocabularyLookup
        Tokenizer and vector table.
    params : dict
        Parameters of the weighting.

    Returns
    -------
    weights : ndarray of shape (n_rows,), float32, or None
        Weight of each row; None if all are equal.
    unmet : float
        Weight of an out-of-vocabulary word.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, an array has the wrong shape, or the
        weighting lacks the frequencies or documents that it needs.
    """
    n_rows = len(lookup.vectors.tokens)
    weighting = resolve_weighting(weights)
    if weights is None:
        return None, 1.0
    if weighting is not None:
        if frequencies is None:
            raise ValueError(f"weights={weighting.name!r} requires frequencies")
        documents = frequencies.documents
        if weighting.needs == "documents" and documents is None:
            raise ValueError(
                f"weights={weighting.name!r} (--weights {weighting.name}) requires "
                "texts with known words in fit, to count the texts that contain each "
                "word"
            )
        if weighting.needs == "nothing":  # unknown words have no rank
            return check_row_weights(weighting(frequencies, **params), n_rows), 1.0
        with_unknown = frequencies._replace(
            counts=np.append(frequencies.counts, 0.0),
            documents=None if documents is None else np.append(documents, 0.0),
        )
        values = weighting(with_unknown, **params)
        return check_row_weights(values[:-1], n_rows), float(values[-1])
    if isinstance(weights, Mapping):
        weights = weights_from_mapping(
            weights, n_rows, lookup.vocabulary, lowercase=lookup.lowercase
        )
    return check_row_weights(weights, n_rows), 1.0


def weights_from_mapping(
    weights: Mapping[str, float],
    n_rows: int,
    rows: Mapping[str, int],
    *,
    lowercase: bool = False,
) -> Float64:
    """Weights of rows from a mapping of words; missing words weigh 1.

    Parameters
    ----------
    weights : mapping of str to number, not negative
        Weight of each word. If it has ``__missing__``, as a defaultdict, it is queried
        for every word of the vocabulary.
    n_rows : int
        Number of rows of the vector table.
    rows : mapping of str to row
        Row of each known word.
    lowercase : bool, default=False
        Whether to lowercase the words of ``weights`` before the lookup.

    Returns
    -------
    ndarray of shape (n_rows,)
        Weight of each row.
    """
    values = np.ones(n_rows)
    if hasattr(weights, "__missing__"):
        for word, row in rows.items():
            values[row] = weights[word]
        return values
    for word, weight in weights.items():
        known_row = rows.get(word.lower() if lowercase else word)
        if known_row is not None:
            values[known_row] = weight
    return values


def check_row_weights(weights: Any, n_rows: int) -> NDArray[np.float32]:
    """Check that weights are finite and not negative, and convert them to float32.

    Parameters
    ----------
    weights : array-like of shape (n_rows,)
        Weight of each row.
    n_rows : int
        Number of rows of the vector table.

    Returns
    -------
    ndarray of shape (n_rows,), float32
        The weights.

    Raises
    ------
    ValueError
        If the shape is wrong, or a weight is negative, infinite or NaN.
    """
    values = np.asarray(weights, np.float64)
    if values.shape != (n_rows,):
        raise ValueError(
            f"weights must be {n_rows} values, one for each token; found shape "
            f"{values.shape}"
        )
    invalid = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(invalid):
        raise ValueError(
            "weights must be finite and not negative: the weight of row "
            f"{invalid[0]} is {values[invalid[0]]}"
        )
    return values.astype(np.float32)
