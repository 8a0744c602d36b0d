"""Sources of word counts: training texts, a file or mapping, or the vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ensembles.embeddings.files.file_signatures import read_text
from ensembles.embeddings.vectors.lookup import Met, Rows
from ensembles.embeddings.weighting.builtin import Frequencies, by_rank, from_list

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
        mark = "\t" if "\t" in line.strip() else " "
        word, _, count = line.rstrip().rpartition(mark)
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


def frequencies_of(source: Any, rows: Rows, met: Met) -> Frequencies:
    """Determine word frequencies from the given source, or from the best available.

    Parameters
    ----------
    source : mapping, path, {"corpus", "vectors", "zipf"} or None
        Mapping or file of word counts, training texts, counts stored with the vectors,
        or order of the vectors. None uses the training texts if they contain known
        words, else the vectors' counts, else their order.
    rows : Rows
        Tokenizer and vector table.
    met : Met
        Counts of the tokens of the training texts.

    Returns
    -------
    Frequencies
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
    if isinstance(source, str | os.PathLike) and source not in SOURCES:
        source = read_frequencies(source)
    if source is None and met.counts.any():
        source = "corpus"
    elif source is None and rows.vectors.counts is not None:
        source = "vectors"
    length = met.counts.sum() / met.n_filled if met.n_filled else None
    return _from(source, rows, met)._replace(
        mean_length=length,
        documents=met.documents.astype(np.float64) if met.counts.any() else None,
        n_documents=met.n_texts,
    )


def _from(source: Any, rows: Rows, met: Met) -> Frequencies:
    """Word counts from one source; None warns and uses the order of the vectors."""
    n_rows, owner = len(rows.vectors.tokens), rows.vectors.source
    if isinstance(source, Mapping):
        found = from_list(source, rows.vocabulary, n_rows, lowercase=rows.lowercase)
        return found._replace(source="a list of words and counts")
    if source == "corpus" and not met.counts.any():
        raise ValueError(
            "frequencies='corpus' must have texts with known words in fit, found "
            f"{met.n_texts} texts without any"
        )
    known = {"corpus": met.counts, "vectors": rows.vectors.counts}
    counts = known.get(source) if isinstance(source, str) else None
    if source == "vectors" and counts is None:
        raise ValueError(
            f"frequencies='vectors' must have counts, which {owner} lacks; give fit a "
            "corpus, or a list of words and counts"
        )
    if counts is not None:
        n_met = counts.sum() + (met.n_unknown if source == "corpus" else 0)
        every = counts.astype(np.float64)
        named = {"corpus": "the texts given to fit", "vectors": "the vectors' file"}
        return Frequencies(every, every, n_met=float(n_met), source=named[source])
    if source is None:
        warnings.warn(
            f"{owner} has no counts of its words: the order of the vectors stands for "
            "them, by Zipf's law; frequencies='zipf' says that it may, texts given to "
            "fit or a list as frequencies hold real counts",
            stacklevel=5,
        )
    elif source != "zipf":
        raise TypeError(
            "frequencies must be None, a mapping of word to count, a path, or one of "
            f"{', '.join(SOURCES)}; found {source!r}"
        )
    return by_rank(n_rows)
