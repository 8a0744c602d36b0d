"""Search in texts that are embedded on the way, and in an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles.embeddings.files.text_files import to_list
from ensembles.embeddings.similarity.search import (
    BestRows,
    Progress,
    SearchResult,
    semantic_search,
)
from ensembles.embeddings.similarity.text_index import TextIndex
from ensembles.embeddings.similarity.unit_rows import UnitRows
from ensembles.embeddings.tokenization.texts import Utf8Texts, encode_utf8


class Hit(NamedTuple):
    """A text that was found.

    Attributes
    ----------
    row : int
        Index of the text, from 0.
    cosine : float
        Cosine similarity with the query.
    text : str
        The text.
    """

    row: int
    cosine: float
    text: str


def search_index(vectors: ArrayLike, index: TextIndex, k: int) -> list[list[Hit]]:
    """Find the texts of an index that are most similar to each query.

    Parameters
    ----------
    vectors : array-like of shape (n_queries, n_columns)
        Vectors of the queries.
    index : TextIndex
        Index of the texts.
    k : int
        Number of texts for each query.

    Returns
    -------
    list of list of Hit
        Texts for each query, by descending cosine; none for a zero vector.
    """
    found = semantic_search(vectors, iter([index.rows()]), k)
    return _hits(vectors, found, index.texts)


def search_batches(
    vectors: ArrayLike,
    batches: Iterable[Any],
    transform: Callable[[Any], Any],
    k: int,
    *,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """Embed texts, and find the most similar ones to each query.

    Parameters
    ----------
    vectors : array-like of shape (n_queries, n_columns)
        Vectors of the queries.
    batches : iterable of Batch
        Texts in batches, as `read_texts` yields them.
    transform : callable (texts) -> vectors
        Model of the texts.
    k : int
        Number of texts for each query.
    progress : callable (int) or None, default=None
        Called with the number of bytes that were read since the last call.

    Returns
    -------
    list of list of Hit
        As in `search_index`.
    """
    best, parts, starts = BestRows(UnitRows(vectors, "queries"), k), [], []
    for batch in batches:
        starts.append(best.n_documents)
        parts.append(encode_utf8(to_list(batch.texts)))
        best.add(UnitRows(transform(batch.texts), "documents"))
        if progress is not None:
            progress(batch.n_bytes)

    def texts(rows: Any) -> list[str]:
        numbers = np.searchsorted(starts, rows, "right") - 1
        return [
            _text(parts[number], row - starts[number])
            for number, row in zip(numbers, rows, strict=True)
        ]

    return _hits(vectors, best.result(), texts)


def _text(texts: Utf8Texts, row: int) -> str:
    return Utf8Texts(texts.buffer, texts.offsets[row : row + 2]).texts()[0]


def _hits(
    vectors: ArrayLike, found: SearchResult, texts: Callable[[Any], list[str]]
) -> list[list[Hit]]:
    hits = []
    is_filled: Any = np.asarray(vectors).any(axis=1)
    for rows, cosines, filled in zip(*found, is_filled.tolist(), strict=True):
        rows = rows[: len(rows) if filled else 0]
        columns = (rows.tolist(), cosines.tolist(), texts(rows))
        hits.append([Hit(*hit) for hit in zip(*columns, strict=False)])
    return hits
