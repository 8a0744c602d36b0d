"""One weight a row of the vectors, from a name, an array or a mapping of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32, Float64
from ensembles.embeddings.vectors.lookup import Rows
from ensembles.embeddings.weighting.builtin import WEIGHTINGS, Frequencies, Weighting
from ensembles.registry import lookup


def weighting_of(weights: Any) -> Weighting | None:
    """Weighting of that name, None for weights that are given."""
    if isinstance(weights, str):
        return lookup(WEIGHTINGS, weights)
    return weights if isinstance(weights, Weighting) else None


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
