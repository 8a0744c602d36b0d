"""Weights of the rows of a vector table, from a weighting, an array or a mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32, Float64
from ensembles.embeddings.vectors.lookup import Rows
from ensembles.embeddings.weighting.builtin import WEIGHTINGS, Frequencies, Weighting
from ensembles.registry import lookup


def weighting_of(
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
    """
    weighting = lookup(WEIGHTINGS, weights) if isinstance(weights, str) else weights
    if not isinstance(weighting, Weighting):
        weighting = None
    known = {} if weighting is None else weighting.params
    for name in params or {}:
        if name not in known:
            owner = "no weighting" if weighting is None else repr(weighting.name)
            raise ValueError(
                f"weights_params must name parameters of {owner}: found {name!r} "
                f"(known: {', '.join(known) or 'none'})"
            )
    return weighting


def weights_of(
    weights: Any, frequencies: Frequencies | None, rows: Rows, params: dict[str, Any]
) -> tuple[Float32 | None, float]:
    """Compute the weights of all rows, and the weight of out-of-vocabulary words.

    Parameters
    ----------
    weights : str, Weighting, mapping of word to weight, array-like or None
        Name of a weighting, or explicit weights. None weighs every word equally.
    frequencies : Frequencies or None
        Word frequencies; None is allowed for explicit weights only.
    rows : Rows
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
        if weighting.needs == "nothing":  # unknown words have no rank
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
    """Weights of rows from a mapping of words; missing words weigh 1.

    Parameters
    ----------
    weights : mapping of str to number, not negative
        Weight of each word. If it has ``__missing__``, as a defaultdict, it is queried
        for every word of the vocabulary.
    tokens : sequence of str
        Tokens of the vector table; only their number is used.
    rows : mapping of str to row
        Row of each known word.
    lowercase : bool, default=False
        Whether to lowercase the words of ``weights`` before the lookup.

    Returns
    -------
    ndarray of shape (n_rows,)
        Weight of each row.
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
