"""Fitted embedders as a directory of safetensors and JSON, without any pickle.

Where the average is linear in the words' vectors (the mean of words, each times its
weight, then components, whitening, principal axes), all of it is folded into the table:
the directory is then one that model2vec and sentence-transformers read as a static
model. Otherwise the table is called ``table``, and only this library reads it.
"""

from __future__ import annotations

import json
import os
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensembles.atomic_io import whole
from ensembles.embeddings.outputs import check_free, save_tensors
from ensembles.embeddings.rows import Rows
from ensembles.embeddings.vectors.models import OWN, TABLE, unknown_id
from ensembles.embeddings.word_pattern import PORTABLE
from ensembles.parallel import cut

if TYPE_CHECKING:
    from ensembles.embeddings.embedder import SentenceEmbedder

VERSION = 1
# Parameters that are values of JSON as they are.
PLAIN = ("remove_components", "whiten", "n_components", "n_jobs", "params")
PROJECTION = ("matrix", "mean", "components", "shares")
STEP = 1 << 16  # rows folded together
STATIC = "sentence_transformers.models.StaticEmbedding"
NORMALIZE = "sentence_transformers.models.Normalize"


def save(
    embedder: SentenceEmbedder, path: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Write a fitted embedder to a directory, which is whole or absent.

    What is loaded again gives the same vectors; to the rounding of float32 where the
    table is folded. Of a text with unknown words sentence-transformers gives a shorter
    vector of the same direction: it counts them in the mean.

    Parameters
    ----------
    embedder : SentenceEmbedder, fitted
    path : path
    force : bool, default=False
        Whether what is there is replaced.

    Raises
    ------
    ValueError
        If the tokenizer is a callable, which is code, or unknown words are made of
        n-grams, whose table belongs to another file.
    FileExistsError
        If something is there and not ``force``.
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(embedder)
    path = Path(path)
    check_free(path, folder=True, force=force)
    average = embedder._average
    rows = average.rows
    if rows.unknown == "subword" and not rows.by_piece:
        raise ValueError(
            "unknown='subword' cannot be saved: its n-grams stay in "
            f"{rows.vectors.source}; pickle the embedder, or take unknown='skip'"
        )
    tokenizer, order = _tokenizer(rows)
    folded = is_linear(embedder) and _is_for_others(tokenizer)
    tensors = _tensors(embedder, order, folded)
    with whole(path, folder=True, force=force) as place:
        save_tensors(tensors, place / "model.safetensors")
        _write(place / "tokenizer.json", tokenizer)
        _write(place / "config.json", _config(embedder, folded))
        if folded:
            modules = [{"idx": 0, "name": "0", "path": ".", "type": STATIC}]
            if embedder._normalize:
                other = {"idx": 1, "name": "1", "path": "1_Normalize"}
                modules.append({**other, "type": NORMALIZE})
            _write(place / "modules.json", modules)


def is_linear(embedder: SentenceEmbedder) -> bool:
    """Whether a vector is the mean over words of vectors that do not depend on it."""
    average, projection = embedder._average, embedder.projection_
    if len(average.rules) > 1 or not average.rules[0].linear:
        return False
    if average.weights is not None and average.divide != "count":
        return False
    # Zeros stay zeros where a mean is taken off, unlike zeros beside other words.
    centred = projection is not None and projection.mean.any()
    return not (centred and _has_zeros(embedder))


def _is_for_others(tokenizer: dict[str, Any]) -> bool:
    """Whether tokenizers know the pattern, which Python knew."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return True
    try:
        Tokenizer.from_str(json.dumps(tokenizer))
    except Exception:  # the Rust binding raises nothing more narrow
        return False
    return True


def _has_zeros(embedder: SentenceEmbedder) -> bool:
    matrix = embedder.vectors_.matrix
    steps = cut(len(matrix), STEP)
    some = any(not matrix[start:stop].any(axis=1).all() for start, stop in steps)
    weights = embedder.weights_
    return some or (weights is not None and not weights.all())


def _tensors(
    embedder: SentenceEmbedder, order: NDArray[np.int64], folded: bool
) -> dict[str, NDArray[Any]]:
    matrix, weights = embedder.vectors_.matrix, embedder.weights_
    if folded:
        n_columns = embedder._average.n_columns
        if embedder.projection_ is not None:
            n_columns = embedder.projection_.matrix.shape[1]
        table = np.zeros((len(order), n_columns), np.float32)
        for start, stop in cut(len(order), STEP):
            some = order[start:stop]
            table[start:stop] = _folded(embedder, some)
            table[start:stop][some < 0] = 0
        return {"embeddings": table}
    kept = matrix[order]
    kept[order < 0] = 0
    tensors: dict[str, NDArray[Any]] = {TABLE: kept}
    if weights is not None:
        some = order if embedder._average.rows.by_piece else order[:-1]
        tensors["row_weights"] = np.where(some < 0, np.float32(0), weights[some])
    if embedder.projection_ is not None:
        for name in PROJECTION:
            found = np.ascontiguousarray(getattr(embedder.projection_, name))
            tensors[f"projection.{name}"] = found
    return tensors


def _folded(embedder: SentenceEmbedder, some: NDArray[np.int64]) -> NDArray[Any]:
    """Some rows as they count in the end."""
    part = embedder.vectors_.matrix[some].astype(np.float64)
    if embedder.weights_ is not None:
        part *= embedder.weights_[some][:, None]
    if embedder.projection_ is not None:
        part = (part - embedder.projection_.mean) @ embedder.projection_.matrix
    return part


def _config(embedder: SentenceEmbedder, folded: bool) -> dict[str, Any]:
    average, rows = embedder._average, embedder._average.rows
    coverage = None if np.isnan(embedder.coverage_) else embedder.coverage_
    weights = embedder.weights if isinstance(embedder.weights, str) else None
    given = embedder.get_params(deep=False)
    tokenizer = None if rows.by_piece else rows.tokenizer
    common = {
        "rule": [rule.name for rule in average.rules],
        "normalize": embedder._normalize,
        "tokenizer": tokenizer,
        "lowercase": rows.lowercase,
        "unknown": rows.unknown,
        "dtype": embedder._dtype,
    }
    learned = {"weights": weights, **{name: given[name] for name in PLAIN}}
    if folded:
        parameters = {**common, "weights": None, "n_jobs": given["n_jobs"]}
    else:
        parameters = {**common, **learned}
    return {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": embedder._n_features_out,
        "normalize": embedder._normalize,
        "max_length": None,
        OWN: {
            "version": VERSION,
            "folded": folded,
            "by_piece": rows.by_piece,
            "parameters": parameters,
            "recipe": {**common, **learned},
            "state": {
                "unmet": average.unmet,
                "divide": average.divide,
                "scale": embedder.scale_,
                "coverage": coverage,
                "n_features_out": embedder._n_features_out,
            },
        },
    }


def _tokenizer(rows: Rows) -> tuple[Any, NDArray[np.int64]]:
    """What tokenizer.json holds, and the row of each of its ids; -1 for none."""
    vocabulary = rows.vocabulary
    if rows.by_piece:
        backend = getattr(rows.tokenizer, "backend_tokenizer", rows.tokenizer)
        pieces = backend.get_vocab(with_added_tokens=True)
        n_ids = max(pieces.values()) + 1
        if rows.tokenizer is rows.vectors.tokenizer:
            n_ids = len(rows.vectors.tokens)
        order = np.full(n_ids, -1)
        for piece, number in pieces.items():
            order[number] = vocabulary.get(piece, -1)
        skipped = unknown_id(backend)
        if any(order[n] < 0 for n in pieces.values() if n != skipped):
            raise ValueError(
                "tokenizer has pieces without a vector: such an embedder cannot be "
                "saved"
            )
        return json.loads(backend.to_str()), order
    if rows.tokenizer is not None and not isinstance(rows.tokenizer, str):
        raise ValueError(
            "a tokenizer that is a callable cannot be saved, as it is code; pickle the "
            "embedder, or take a regular expression"
        )
    unknown = "[UNK]"
    while unknown in vocabulary:
        unknown = f"[{unknown}]"
    ids = {token: number for number, token in enumerate([*vocabulary, unknown])}
    order = np.append(np.fromiter(vocabulary.values(), np.int64, len(vocabulary)), -1)
    return _word_level(rows, ids, unknown), order


def _word_level(rows: Rows, ids: dict[str, int], unknown: str) -> dict[str, Any]:
    """A tokenizer of words, as tokenizers' own JSON says it."""
    pattern = PORTABLE if rows.tokenizer is None else rows.tokenizer
    pattern = pattern.removeprefix("(?u)")  # which says nothing in Python 3
    cutter: dict[str, Any] = {"type": "WhitespaceSplit"}
    if pattern != "whitespace":
        cutter = {"type": "Split", "pattern": {"Regex": pattern}}
        cutter |= {"behavior": "Removed", "invert": True}
    steps = [{"type": "NFC"}, *([{"type": "Lowercase"}] if rows.lowercase else [])]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": cutter,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": unknown},
    }


def _write(path: Path, found: Any) -> None:
    # Parameters may be numpy's own numbers, as a search over an array sets them.
    item = methodcaller("item")
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, default=item)
    path.write_text(text, "utf-8")
