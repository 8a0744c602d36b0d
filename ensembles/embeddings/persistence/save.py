"""Save fitted embedders as a directory of safetensors and JSON, without pickle.

If the sentence vector is linear in the word vectors (a weighted mean of words, then
component removal, whitening or principal axes), weights and projection are folded into
the table, and model2vec and sentence-transformers load the directory as a static model.
Otherwise the table is named ``table``, and only this library loads it.
"""

from __future__ import annotations

import json
import os
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.atomic_io import check_free, whole
from ensembles.embeddings.files.vector_files import save_tensors
from ensembles.embeddings.persistence.saved_embedder import STEP, SavedEmbedder
from ensembles.embeddings.tokenization.word_pattern import PORTABLE
from ensembles.embeddings.vectors.lookup import Rows
from ensembles.embeddings.vectors.model_directory import OWN, TABLE, unknown_id
from ensembles.parallel import cut

VERSION = 1
# Parameters that JSON can store as they are.
PLAIN = (
    *("rule_params", "weights_params", "remove_components", "whiten"),
    *("n_components", "n_jobs"),
)
PROJECTION = ("matrix", "mean", "components", "shares")
STATIC = "sentence_transformers.models.StaticEmbedding"
NORMALIZE = "sentence_transformers.models.Normalize"


def save(
    saved: SavedEmbedder, path: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Write a fitted embedder to a directory, atomically.

    The loaded embedder returns the same vectors, up to float32 rounding if the table is
    folded. For a text with unknown words, sentence-transformers returns a shorter
    vector of the same direction, because it counts them in the mean.

    Parameters
    ----------
    saved : SavedEmbedder
        State of the embedder.
    path : path
        Directory to write.
    force : bool, default=False
        Whether an existing directory is replaced.

    Raises
    ------
    ValueError
        If the tokenizer is a callable, which cannot be stored without code, a
        tokenizer of subword tokens has tokens without a vector, or unknown words are
        composed of n-grams, which stay in another file.
    FileExistsError
        If ``path`` exists and not ``force``.
    """
    path = Path(path)
    check_free(path, folder=True, force=force)
    rows = saved.rows
    if rows.unknown == "subword" and not rows.by_piece:
        raise ValueError(
            "unknown='subword' cannot be saved: its n-grams stay in "
            f"{rows.vectors.source}; pickle the embedder, or take unknown='skip'"
        )
    tokenizer, order = _tokenizer(rows)
    folded = saved.is_linear and _is_for_others(tokenizer)
    tensors = _tensors(saved, order, folded)
    with whole(path, folder=True, force=force) as place:
        save_tensors(tensors, place / "model.safetensors")
        _write(place / "tokenizer.json", tokenizer)
        _write(place / "config.json", _config(saved, folded))
        if folded:
            modules = [{"idx": 0, "name": "0", "path": ".", "type": STATIC}]
            if saved.normalize:
                other = {"idx": 1, "name": "1", "path": "1_Normalize"}
                modules.append({**other, "type": NORMALIZE})
            _write(place / "modules.json", modules)


def _is_for_others(tokenizer: dict[str, Any]) -> bool:
    """Whether the package tokenizers accepts the tokenizer and its pattern."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return True
    try:
        Tokenizer.from_str(json.dumps(tokenizer))
    except Exception:  # the Rust binding raises plain Exception
        return False
    return True


def _tensors(
    saved: SavedEmbedder, order: NDArray[np.int64], folded: bool
) -> dict[str, NDArray[Any]]:
    projection = saved.projection
    if folded:
        n_columns = saved.rows.vectors.matrix.shape[1]
        if projection is not None:
            n_columns = projection.matrix.shape[1]
        table = np.zeros((len(order), n_columns), np.float32)
        for start, stop in cut(len(order), STEP):
            index = order[start:stop]
            table[start:stop] = saved.fold(index)
            table[start:stop][index < 0] = 0
        return {"embeddings": table}
    kept = saved.rows.vectors.matrix[order]
    kept[order < 0] = 0
    tensors: dict[str, NDArray[Any]] = {TABLE: kept}
    if saved.weights is not None:
        index = order if saved.rows.by_piece else order[:-1]
        weights = np.where(index < 0, np.float32(0), saved.weights[index])
        tensors["row_weights"] = weights
    if projection is not None:
        for name in PROJECTION:
            array = np.ascontiguousarray(getattr(projection, name))
            tensors[f"projection.{name}"] = array
    return tensors


def _config(saved: SavedEmbedder, folded: bool) -> dict[str, Any]:
    rows, params = saved.rows, saved.params
    coverage = None if np.isnan(saved.coverage) else saved.coverage
    weights = params["weights"] if isinstance(params["weights"], str) else None
    tokenizer = None if rows.by_piece else rows.tokenizer
    common = {
        "rule": [rule.name for rule in saved.rules],
        "normalize": saved.normalize,
        "tokenizer": tokenizer,
        "lowercase": rows.lowercase,
        "unknown": rows.unknown,
        "dtype": saved.dtype,
    }
    learned = {"weights": weights, **{name: params[name] for name in PLAIN}}
    if folded:
        parameters = {**common, "weights": None, "n_jobs": params["n_jobs"]}
    else:
        parameters = {**common, **learned}
    return {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": saved.n_features_out,
        "normalize": saved.normalize,
        "max_length": None,
        OWN: {
            "version": VERSION,
            "folded": folded,
            "by_piece": rows.by_piece,
            "parameters": parameters,
            "recipe": {**common, **learned},
            "state": {
                "unmet": saved.unmet,
                "divide": saved.divide,
                "scale": saved.scale,
                "coverage": coverage,
                "n_features_out": saved.n_features_out,
            },
        },
    }


def _tokenizer(rows: Rows) -> tuple[Any, NDArray[np.int64]]:
    """Content of tokenizer.json, and the row of each token id (-1: no row)."""
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
    """Word-level tokenizer in the JSON format of the package tokenizers."""
    pattern = PORTABLE if rows.tokenizer is None else rows.tokenizer
    pattern = pattern.removeprefix("(?u)")  # the default in Python 3
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
    # Parameters may be NumPy scalars, e.g. after a grid search over an array.
    item = methodcaller("item")
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, default=item)
    path.write_text(text, "utf-8")
