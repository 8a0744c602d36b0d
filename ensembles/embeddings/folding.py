"""Ensembles of word vectors with one tokenizer, folded into a single table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import unwrap_frozen
from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.persistence.save import SavedEmbedder
from ensembles.embeddings.postprocessing.quantization import FLOATS
from ensembles.embeddings.vectors.lookup import VocabularyLookup

LINEAR = ("mean", "concatenate")


def fold_ensemble(ensemble: Any) -> SentenceEmbedder:
    """Fold an ensemble of embedders with the same tokens into one embedder.

    The mean, the concatenation, rotations and principal axes are linear, so that the
    combined vector of a text is the mean of the combined vectors of its tokens: these
    are the table of the result. It takes the time of one member, and is saved
    like any embedder.

    Parameters
    ----------
    ensemble : fitted EnsembleTransformer
        Its members are `SentenceEmbedder` with the same tokens and tokenizer, whose
        sentence vectors are plain means of fixed vectors: pooling "mean", word weights
        that divide by the count of words or none, and no L2 normalization. Members with
        weight 0 are ignored.

    Returns
    -------
    SentenceEmbedder
        Fitted. It returns the vectors of the ensemble, up to float32 rounding.

    Raises
    ------
    ValueError
        If the ensemble or a member is not linear, or members differ in their tokens;
        the message names the member.
    TypeError
        If a member is not a `SentenceEmbedder`, or ``ensemble`` not an ensemble of
        transformers.

    Examples
    --------
    >>> from ensembles.predictions import EnsembleTransformer
    >>> one, two = {"good": [1, 0], "film": [0, 1]}, {"good": [1, 2], "film": [4, 1]}
    >>> members = [
    ...     ("one", SentenceEmbedder(one, weights=None)),
    ...     ("two", SentenceEmbedder(two, weights=None)),
    ... ]
    >>> ensemble = EnsembleTransformer(members).fit(["good film"])
    >>> fold_ensemble(ensemble).transform(["good film"])
    array([[1.5, 1. ]], dtype=float32)
    """
    if not hasattr(ensemble, "combine") or not hasattr(ensemble, "estimators"):
        raise TypeError(
            "ensemble must be a fitted EnsembleTransformer, found "
            f"{type(ensemble).__name__}"
        )
    check_is_fitted(ensemble)
    rule = getattr(ensemble.rule, "name", ensemble.rule)
    if rule not in LINEAR or ensemble.normalize:
        raise ValueError(
            "an ensemble must have the rule 'mean' or 'concatenate' and "
            f"normalize=False to be folded: found rule {rule!r} and "
            f"normalize={ensemble.normalize!r}"
        )
    members = {
        name: unwrap_frozen(member)
        for (name, member), weight in zip(
            ensemble.named_estimators_.items(), ensemble.weights_, strict=True
        )
        if weight
    }
    states = {name: _linear_state(name, member) for name, member in members.items()}
    first_name = next(iter(members))
    for name, state in states.items():
        if not _same_tokens(state.averager.lookup, states[first_name].averager.lookup):
            raise ValueError(
                "members must have the same tokens, tokenizer and handling of case and "
                f"of unknown words to be folded: {first_name!r} and {name!r} differ"
            )
    first = members[first_name]
    rows = np.arange(len(first.vectors_.tokens))
    tables = [
        states[name].fold(rows) if name in states else None
        for name in ensemble.named_estimators_
    ]
    vectors = replace(
        first.vectors_,
        matrix=np.ascontiguousarray(ensemble.combine(tables), np.float32),
        preweighted=True,
        normalize=False,
        source="folded ensemble",
        format="vectors in memory",
    )
    return SentenceEmbedder(
        vectors,
        weights=None,
        tokenizer=first.tokenizer,
        lowercase=first.lowercase_,
        unknown=first.unknown,
        n_jobs=first.n_jobs,
    ).fit()


def _linear_state(name: str, member: Any) -> SavedEmbedder:
    """State of a member, checked to be a plain mean of fixed vectors."""
    if not isinstance(member, SentenceEmbedder):
        raise TypeError(
            f"member {name!r} must be a SentenceEmbedder to be folded: found "
            f"{type(member).__name__}"
        )
    state = member._state()
    lookup = state.averager.lookup
    composes = lookup.unknown == "subword" and not lookup.uses_subword_tokenizer
    problems = {
        "normalize=True": state.normalize,
        f"dtype={state.dtype!r}": state.dtype not in FLOATS,
        "unknown='subword'": composes,
        "a rule, weights or components that are not linear": not state.is_linear,
    }
    found = [problem for problem, has_problem in problems.items() if has_problem]
    if found:
        raise ValueError(
            f"member {name!r} must return plain means of fixed vectors to be folded: "
            f"it has {found[0]}"
        )
    return state


def _same_tokens(one: VocabularyLookup, two: VocabularyLookup) -> bool:
    """Whether two lookups find the same rows in every text."""
    return (
        list(one.vectors.tokens) == list(two.vectors.tokens)
        and _described(one.tokenizer) == _described(two.tokenizer)
        and one.lowercase == two.lowercase
        and one.unknown == two.unknown
        and one.vectors.unk_index == two.vectors.unk_index
    )


def _described(tokenizer: Any) -> Any:
    """Value by which equal tokenizers compare equal."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return backend.to_str() if hasattr(backend, "to_str") else backend
