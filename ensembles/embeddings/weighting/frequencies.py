"""Sources of word counts: training texts, a file or mapping, or the vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ensembles.embeddings.vectors.lookup import TokenCounts, VocabularyLookup
from ensembles.embeddings.weighting.builtin import (
    WordFrequencies,
    from_counts,
    zipf_frequencies,
)
from ensembles.file_signatures import read_text

SOURCES = ("corpus", "vectors", "zipf")


def read_frequencies(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read word counts from a file with one word and its count per line.

    Parameters
    ----------
    path : path
        UTF-8 text file; a tab or a space separates word and count. Counts of a word
        that occurs more than once are added.

    Returns
    -------
    dict of str to float
        Count of each word.

    Raises
    ------
    ValueError
        If a line does not have this format; the message names the line.
    """
    counts: dict[str, float] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        separator = "\t" if "\t" in line.strip() else " "
        word, _, count = line.rstrip().rpartition(separator)
        try:
            counts[word.strip()] = counts.get(word.strip(), 0.0) + float(count)
        except ValueError:
            word = ""
        if not word:
            raise ValueError(
                f"{path} line {number} must be a word and its count, found "
                f"{line[:60]!r}"
            )
    return counts


def resolve_frequencies(
    source: Any, lookup: VocabularyLookup, counts: TokenCounts
) -> WordFrequencies:
    """Determine word frequencies from the given source, or from the best available.

    Parameters
    ----------
    source : mapping, path, {"corpus", "vectors", "zipf"} or None
        Mapping or file of word counts, training texts, counts stored with the vectors,
        or order of the vectors. None uses the training texts if they contain known
        words, else the vectors' counts, else their order.
    lookup : VocabularyLookup
        Tokenizer and vector table.
    counts : TokenCounts
        Counts of the tokens of the training texts.

    Returns
    -------
    WordFrequencies
        Word counts, with the document counts of the training texts.

    Raises
    ------
    ValueError
        If the source has no counts, or invalid ones.
    TypeError
        If ``source`` is of another type.

    Warns
    -----
    UserWarning
        If ``source`` is None and only the order of the vectors is available.
    """
    has_corpus, vectors = bool(counts.counts.any()), lookup.vectors
    if isinstance(source, str | os.PathLike) and source not in SOURCES:
        source = read_frequencies(source)
    if source is None and has_corpus:
        source = "corpus"
    elif source is None and vectors.counts is not None:
        source = "vectors"
    if source is None:
        warnings.warn(
            f"{vectors.source} has no word counts: the order of its vectors replaces "
            "them, by Zipf's law. Pass texts to fit or frequencies with counts, or "
            "frequencies='zipf' (--frequencies zipf) to accept the order",
            stacklevel=3,
        )
        source = "zipf"
    length = counts.counts.sum() / counts.n_filled if counts.n_filled else None
    return _from_source(source, lookup, counts)._replace(
        mean_length=length,
        documents=counts.documents.astype(np.float64) if has_corpus else None,
        n_documents=counts.n_texts,
    )


def _from_source(
    source: Any, lookup: VocabularyLookup, counts: TokenCounts
) -> WordFrequencies:
    vectors, n_rows = lookup.vectors, len(lookup.vectors.tokens)
    if isinstance(source, Mapping):
        frequencies = from_counts(
            source, lookup.vocabulary, n_rows, lowercase=lookup.lowercase
        )
        return frequencies._replace(source="a list of words and counts")
    if not isinstance(source, str) or source not in SOURCES:
        raise TypeError(
            "frequencies must be None, a mapping of word to count, a path, or one of "
            f"{', '.join(SOURCES)}; found {source!r}"
        )
    if source == "zipf":
        return zipf_frequencies(n_rows)
    if source == "corpus":
        if not counts.counts.any():
            raise ValueError(
                "frequencies='corpus' (--frequencies corpus) requires texts with known "
                f"words in fit, found {counts.n_texts} texts without any"
            )
        all_counts = counts.counts.astype(np.float64)
        total = float(counts.counts.sum() + counts.n_unknown)
        return WordFrequencies(
            all_counts, all_counts, total_count=total, source="the texts passed to fit"
        )
    if vectors.counts is None:
        raise ValueError(
            "frequencies='vectors' (--frequencies vectors) requires counts, which "
            f"{vectors.source} lacks; pass texts to fit (--fit FILE), or a mapping or "
            "file of words and counts (--frequencies FILE)"
        )
    all_counts, total = vectors.counts.astype(np.float64), float(vectors.counts.sum())
    return WordFrequencies(
        all_counts, all_counts, total_count=total, source="the vectors' file"
    )
