"""Evaluation on human similarity ratings: rank correlations with intervals."""

from __future__ import annotations

import csv
import io
import itertools
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.bootstrap import ConfidenceInterval, percentile_interval, resample
from ensembles.embeddings.files.tables import delimiter_of
from ensembles.embeddings.similarity.cosine import paired_cosines
from ensembles.file_signatures import read_text
from ensembles.rank_correlation import spearman

# Column names found without ``columns``: first text, second text, score.
COLUMN_NAMES = (
    ("sentence1", "sentence2", "score"),
    ("s1", "s2", "score"),
    ("text1", "text2", "score"),
    ("sentence_A", "sentence_B", "relatedness_score"),
)
MAX_EMPTY = 0.01  # share of texts without a known token up to which there is no warning


class Pairs(NamedTuple):
    """Pairs of texts and their human similarity ratings.

    Parameters
    ----------
    first, second : list of str
        Texts of each pair.
    scores : ndarray of shape (n_pairs,)
        Rating of each pair; greater is more similar.
    """

    first: list[str]
    second: list[str]
    scores: Float64


def read_similarity_pairs(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None
) -> Pairs:
    """Read pairs of texts and their scores from a table.

    Parameters
    ----------
    path : path
        UTF-8 text file. If its first line contains a tab, fields are tab-separated and
        not quoted. Otherwise they are separated by commas, or by ``;`` or ``|`` if the
        first line has no comma, and may be quoted.
    columns : sequence of three str or None, default=None
        Columns of the first text, the second text and the score: names in the header,
        or numbers from 1 for a file without a header. None recognizes common names,
        such as sentence1, sentence2 and score, and reads three columns without a header
        as text, text, score.

    Returns
    -------
    Pairs
        The texts and scores.

    Raises
    ------
    ValueError
        If the columns are missing, a score is not a finite number (the message names
        the line), or all scores are equal.
    FileNotFoundError
        If there is no file at ``path``.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    is_tabbed = "\t" in header
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="\t" if is_tabbed else delimiter_of([header], None),
        quoting=csv.QUOTE_NONE if is_tabbed else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        first, second, scores = _columns(rows, columns, path)
    except csv.Error as error:
        raise ValueError(f"{path} line {rows.line_num}: {error}") from None
    if len(set(scores)) < 2:
        raise ValueError(
            f"{path} must have pairs with at least two different scores, found "
            f"{len(scores)} pairs"
        )
    return Pairs(first, second, np.array(scores))


def _columns(
    rows: Any, columns: Sequence[str] | None, path: Any
) -> tuple[list[str], list[str], list[float]]:
    first: list[str] = []
    second: list[str] = []
    scores: list[float] = []
    indices: tuple[int, ...] | None = None
    for row in rows:
        if not row:
            continue
        if indices is None:
            indices, is_header = _column_indices(row, columns, path)
            if is_header:
                continue
        try:
            a, b, score = (row[index] for index in indices)
            value = float(score)
        except (IndexError, ValueError):
            value = np.nan
        if not np.isfinite(value):
            raise ValueError(
                f"{path} line {rows.line_num} must have texts in the columns "
                f"{indices[0] + 1} and {indices[1] + 1} and a score in "
                f"{indices[2] + 1}, found {row}"
            )
        first.append(a)
        second.append(b)
        scores.append(value)
    return first, second, scores


def _column_indices(
    row: list[str], columns: Sequence[str] | None, path: Any
) -> tuple[tuple[int, ...], bool]:
    """Column indices of texts and score, and whether the row is a header."""
    if columns is None:
        for names in COLUMN_NAMES:
            if set(names) <= set(row):
                return tuple(map(row.index, names)), True
        if len(row) == 3:
            return (0, 1, 2), False
        raise ValueError(
            f"columns of {path} are not recognized in its first line {row}; pass the "
            "columns of the first text, the second text and the score, by name or "
            "number: columns=['A', 'B', 'SCORE'] (--columns A,B,SCORE)"
        )
    if len(columns) != 3:
        raise ValueError(
            "columns must have three entries: first text, second text, score; found "
            f"{','.join(columns)}"
        )
    if all(name in row for name in columns):
        return tuple(map(row.index, columns)), True
    if all(name.isdecimal() and 1 <= int(name) <= len(row) for name in columns):
        return tuple(int(name) - 1 for name in columns), False
    raise ValueError(f"{path} has no columns {','.join(columns)}, found {row}")


def evaluate_similarity(
    models: Sequence[Any], pairs: Pairs, *, n_resamples: int = 2000, seed: int = 0
) -> tuple[list[ConfidenceInterval], list[ConfidenceInterval]]:
    """Spearman correlation between each model's cosine similarities and the scores.

    Parameters
    ----------
    models : sequence of fitted text transformers
        Models whose ``transform`` returns one vector per text.
    pairs : Pairs
        Pairs of texts and their human similarity ratings.
    n_resamples : int, default=2000
        Number of bootstrap resamples of the pairs, the same for all models.
    seed : int, default=0
        Seed of the resampling.

    Returns
    -------
    correlations : list of ConfidenceInterval
        Correlation of each model, from -1 to 1, with its 95 % interval.
    differences : list of ConfidenceInterval
        Correlation of each further model minus that of the first, paired within each
        resample.

    Warns
    -----
    UserWarning
        If a model returns a zero vector for more than 1 % of the texts.

    References
    ----------
    Reimers, Beyer & Gurevych (2016), "Task-oriented intrinsic evaluation of semantic
    textual similarity", COLING: rank correlation, not Pearson's; Efron & Tibshirani
    (1993), "An introduction to the bootstrap", chapter 13: percentile intervals.
    """
    similarities = np.array([pair_similarities(model, pairs) for model in models])
    values = spearman(similarities, pairs.scores)
    resampled = resample(
        lambda rows: spearman(similarities[:, rows], pairs.scores[rows]),
        len(pairs.scores),
        n_resamples=n_resamples,
        seed=seed,
    )
    differences = zip(values[1:] - values[0], resampled[1:] - resampled[0], strict=True)
    return (
        list(map(percentile_interval, values, resampled)),
        list(itertools.starmap(percentile_interval, differences)),
    )


def pair_similarities(model: Any, pairs: Pairs) -> Float64:
    """Cosine similarity of both texts of each pair.

    Parameters
    ----------
    model : fitted text transformer
        Model whose ``transform`` returns one vector per text.
    pairs : Pairs
        Pairs of texts; their scores are not used.

    Returns
    -------
    ndarray of shape (n_pairs,)

    Warns
    -----
    UserWarning
        If the model returns a zero vector for more than 1 % of the texts.
    """
    texts = list(dict.fromkeys([*pairs.first, *pairs.second]))
    row_of = {text: row for row, text in enumerate(texts)}
    vectors = model.transform(texts)
    n_empty = len(texts) - int(np.count_nonzero(vectors.any(axis=1)))
    if n_empty > MAX_EMPTY * len(texts):
        warnings.warn(
            f"{n_empty} of {len(texts)} texts have no known token, so their "
            "cosines are 0: check that the vectors are of this language",
            stacklevel=3,
        )
    first, second = ([row_of[text] for text in side] for side in pairs[:2])
    return paired_cosines(vectors[first], vectors[second])
