"""Summary of a fitted sentence model, as JSON values and as one sentence."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ensembles.embeddings.base import check_texts
from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.tokenization.texts import as_batches, slice_texts
from ensembles.embeddings.vectors.lookup import VocabularyLookup
from ensembles.embeddings.weighting.builtin import BY_ORDER, Weighting

N_SAMPLED = 20_000  # texts that `split_tokens` searches


def summary(model: Any) -> dict[str, Any]:
    """Origin and settings of a fitted model.

    Parameters
    ----------
    model : SentenceEmbedder or SentenceEncoder, fitted
        The model to describe.

    Returns
    -------
    dict of str to JSON value
        Source, format, dimensions and settings; the keys differ between the two
        classes.
    """
    if not isinstance(model, SentenceEmbedder):
        prompts = getattr(model.model_, "prompts", None) or {}
        max_tokens = getattr(model.model_, "max_seq_length", None)
        return {
            "model": str(model.model),
            "format": "transformer (sentence-transformers)",
            "dimensions": model._n_features_out,
            "normalize": bool(model.normalize),
            "max_tokens": max_tokens if isinstance(max_tokens, int) else None,
            "prompt": model.prompt_,
            "prompts": sorted(name for name, prompt in prompts.items() if prompt),
        }
    vectors, lookup = model.vectors_, model._averager.lookup
    return {
        "model": vectors.source,
        "format": vectors.format,
        "tokens": len(vectors.tokens),
        "dimensions": int(vectors.matrix.shape[1]),
        "tokenizer": _tokenizer(lookup),
        "lowercase": lookup.lowercase,
        "unknown": lookup.unknown,
        "rule": [rule.name for rule in model._averager.rules],
        "weights": _weights(model),
        "frequencies": model._frequency_source,
        "normalize": model._normalize,
        "n_components": None if model.projection_ is None else model._n_features_out,
    }


def sentence(facts: dict[str, Any]) -> str:
    """Format the result of `summary` as one sentence.

    Parameters
    ----------
    facts : dict
        Return value of `summary`.

    Returns
    -------
    str
        The sentence, without a full stop.
    """
    start = f"{facts['model']} is read as {facts['format']}"
    if "tokenizer" not in facts:
        return f"{start}, {facts['dimensions']} dimensions{_prompts(facts)}"
    weights = facts["weights"] or "none"
    if facts["frequencies"]:
        weights += f" by {facts['frequencies']}"
    if facts["frequencies"] == BY_ORDER:
        weights += ", as it has no counts"
    lowercase = ", lowercased" if facts["lowercase"] else ""
    return (
        f"{start}: {facts['tokens']} tokens, {facts['dimensions']} dimensions; "
        f"tokenizer {facts['tokenizer']}{lowercase}; rule {', '.join(facts['rule'])}; "
        f"weights {weights}"
    )


def _prompts(facts: dict[str, Any]) -> str:
    if facts["prompt"]:
        return f"; {facts['prompt']!r} is prepended to each text"
    if facts["prompts"]:
        names = ", ".join(facts["prompts"])
        return f"; its prompts ({names}) are not used: prepend one to your texts"
    return ""


def _tokenizer(lookup: VocabularyLookup) -> str:
    if lookup.uses_subword_tokenizer:
        is_builtin = lookup.tokenizer is lookup.vectors.tokenizer
        return "of the model" if is_builtin else "from Hugging Face"
    if lookup.tokenizer is None:
        return "words of letters and digits"
    return lookup.tokenizer if isinstance(lookup.tokenizer, str) else "callable"


def _weights(model: SentenceEmbedder) -> str | None:
    weights = model.weights
    if isinstance(weights, Weighting):
        return weights.name
    if weights is None and model.vectors_.preweighted:
        return "stored in the vectors"
    return weights if weights is None or isinstance(weights, str) else "custom"


def split_tokens(model: Any, texts: Any) -> Counter[str]:
    """Count in-vocabulary tokens that the tokenizer splits or drops.

    An example is an emoji that has a vector but does not match the word pattern.

    Parameters
    ----------
    model : SentenceEmbedder or SentenceEncoder, fitted
        The model whose tokenizer and vocabulary apply. The count of a SentenceEncoder
        is always empty.
    texts : sequence or column of str
        Texts to search; only the first 20,000 are read.

    Returns
    -------
    Counter of str
        Number of occurrences of each such token.
    """
    counts: Counter[str] = Counter()
    if isinstance(model, SentenceEmbedder):
        lookup = model._averager.lookup
        for batch in as_batches(check_texts(texts))[:1]:
            counts += lookup.split_tokens(slice_texts(batch, 0, N_SAMPLED))
    return counts
