"""Readers of the token embedding table of model directories."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.vectors.model_files import (
    INPUTS,
    STATIC,
    WORD_EMBEDDINGS,
    json_of,
    modules_of,
    settings_of,
    tensors_of,
    tokenizer_of,
)
from ensembles.embeddings.vectors.word_vectors import (
    WordVectors,
    as_float32,
    check_matrix,
    check_token,
)

# Section of config.json and name of the table that only a saved SentenceEmbedder has.
OWN, TABLE = "ensembles", "table"
# Values of `WordVectors.format`.
STATIC_MODEL, TOKEN_TABLE = "static model", "token table of a transformer"
SAVED = "saved SentenceEmbedder"
MEAN_FLAG = "pooling_mode_mean_tokens"
CHANGING = ("stop_words", "do_lower_case")  # settings of a WordEmbeddings tokenizer


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read the token embedding table and the tokenizer of a model directory.

    Parameters
    ----------
    path : Path
        Directory of a model2vec, sentence-transformers or transformers model, or of a
        saved `SentenceEmbedder`.
    limit : None
        Must be None, because token ids refer to all rows.
    errors : str
        Not used; tokens of a tokenizer are already decoded.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If ``limit`` is not None, the table or the tokenizer is missing, or they do not
        fit together.
    ImportError
        If tokenizers is not installed, or PyTorch for a file of PyTorch tensors.

    Warns
    -----
    UserWarning
        If the model has settings or modules that the table does not include.
    """
    if limit is not None:
        raise ValueError(
            f"limit must be None for {path}: its tokenizer's ids need all rows"
        )
    own = json_of(path / "config.json").get(OWN)
    if own is not None:
        return _own(path, dict(own))
    modules = modules_of(path)
    folder = path / modules[0]["path"] if modules else path
    tensors = tensors_of(folder)
    if WORD_EMBEDDINGS in tensors or any(name in tensors for name in STATIC):
        _warn_of_rest(path, folder, modules)
    if WORD_EMBEDDINGS in tensors:
        return _word_embeddings(folder, tensors[WORD_EMBEDDINGS])
    normalize: bool | None = None
    static = next((name for name in STATIC if name in tensors), None)
    if static is not None:
        matrix = static_table(tensors, static, str(path))
        normalize = bool(json_of(path / "config.json").get("normalize", False))
    else:
        matrix = _inputs(tensors, path)
    if modules:
        normalize = any(module["type"].endswith("Normalize") for module in modules)
    return with_tokenizer(
        as_float32(matrix),
        tokenizer_of(folder),
        weighted=static is not None,
        normalize=normalize,
        source=str(path),
        format=TOKEN_TABLE if static is None else STATIC_MODEL,
    )


def _warn_of_rest(path: Path, folder: Path, modules: list[dict[str, str]]) -> None:
    """Warn of modules and settings of a model that its table does not include."""
    rest = settings_of(path)
    for module in modules[1:]:
        kind = module["type"].rpartition(".")[2]
        config = json_of(path / module["path"] / "config.json")
        if kind != "Normalize" and not (kind == "Pooling" and _is_mean(config)):
            rest.append(f"the module {kind}")
    words = json_of(folder / "whitespacetokenizer_config.json")
    rest += [f"{key} of its tokenizer" for key in CHANGING if words.get(key)]
    if rest:
        warnings.warn(
            f"{path} is read as its table of vectors alone, without "
            f"{', '.join(rest)}: SentenceEncoder(path) runs the whole model",
            stacklevel=6,
        )


def _is_mean(config: dict[str, Any]) -> bool:
    """Whether a Pooling module is mean pooling; old configs have a flag per mode."""
    flags = {key for key, value in config.items() if value is True}
    others = {key for key in flags if key.startswith("pooling_mode_")} - {MEAN_FLAG}
    return config.get("pooling_mode", "mean") in ("mean", ["mean"]) and not others


def is_static(path: Path) -> bool:
    """Whether a directory has a readable table of a static model."""
    try:
        found = tensors_of(path)
    except (FileNotFoundError, ValueError):
        return False
    return any(name in found for name in STATIC)


def _word_embeddings(folder: Path, matrix: NDArray[Any]) -> WordVectors:
    """Read a WordEmbeddings module of sentence-transformers."""
    place = folder / "whitespacetokenizer_config.json"
    words = json_of(place).get("vocab")
    if not isinstance(words, list) or len(words) != len(matrix):
        raise ValueError(f"{place} must have a vocab of {len(matrix)} words")
    tokens = [check_token(word, str(place)) for word in words]
    source, kind = str(folder), "WordEmbeddings of sentence-transformers"
    return WordVectors(tokens, as_float32(matrix), source=source, format=kind)


def _own(path: Path, own: dict[str, Any]) -> WordVectors:
    """Read the table of a saved SentenceEmbedder, of words or of subword tokens."""
    tensors = tensors_of(path)
    name = "embeddings" if "embeddings" in tensors else TABLE
    if name not in tensors:
        raise ValueError(f"{path}/model.safetensors must have the table {name!r}")
    matrix = tensors[name]
    check_matrix(matrix, str(path))
    folded = bool(own.get("folded", False))
    normalize = bool(json_of(path / "config.json").get("normalize", False))
    if own.get("by_piece"):
        return with_tokenizer(
            as_float32(matrix),
            tokenizer_of(path),
            weighted=folded,
            normalize=normalize,
            source=str(path),
            format=SAVED,
        )
    try:
        ids = json_of(path / "tokenizer.json")["model"]["vocab"]
        tokens = sorted(ids, key=ids.get)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}/tokenizer.json must have words: {error!r}") from None
    # The last row is that of the unknown token, which other libraries require.
    return WordVectors(
        tokens[:-1],
        as_float32(matrix)[:-1],
        weighted=folded,
        normalize=normalize,
        source=str(path),
        format=SAVED,
    )


def with_tokenizer(
    matrix: NDArray[np.float32],
    tokenizer: Any,
    *,
    weighted: bool,
    normalize: bool | None = None,
    source: str,
    format: str = STATIC_MODEL,
) -> WordVectors:
    """Word vectors whose rows are the token ids of a Hugging Face tokenizer.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, dim)
        Vector of each token id.
    tokenizer : tokenizers.Tokenizer
        Tokenizer that the token ids belong to.
    weighted : bool
        Whether word weights are already part of the vectors.
    normalize : bool or None, default=None
        Whether the model L2-normalizes sentence vectors; None means unspecified.
    source : str
        Name of the origin, for messages.
    format : str, default="static model"
        Name of the format, for display.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If a token id is not below ``n_rows``.
    """
    check_matrix(matrix, source)
    tokens = [""] * len(matrix)
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if number >= len(matrix):
            raise ValueError(
                f"{source}: its tokenizer has the id {number} ({token!r}), its table "
                f"{len(matrix)} rows; they do not belong together"
            )
        tokens[number] = token
    return WordVectors(
        tokens,
        matrix,
        tokenizer=tokenizer,
        weighted=weighted,
        normalize=normalize,
        unknown=unknown_id(tokenizer),
        source=source,
        format=format,
    )


def unknown_id(tokenizer: Any) -> int | None:
    """Id of the unknown token of a tokenizer; None if there is none."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_token") is not None:
        found = tokenizer.token_to_id(model["unk_token"])
    else:
        found = model.get("unk_id")
    return None if found is None else int(found)


def static_table(tensors: dict[str, NDArray[Any]], name: str, source: str) -> Any:
    """Table of a static model, with model2vec's row mapping and weights applied."""
    matrix, mapping = tensors[name], tensors.get("mapping")
    check_matrix(matrix, source)
    if mapping is not None:
        if mapping.ndim != 1 or mapping.dtype.kind not in "iu":
            raise ValueError(f"{source}: its mapping must be whole numbers")
        if mapping.size and not 0 <= mapping.min() <= mapping.max() < len(matrix):
            raise ValueError(
                f"{source}: its mapping must name rows below {len(matrix)}, found "
                f"{mapping.min()} to {mapping.max()}"
            )
        matrix = matrix[mapping]
    weights = tensors.get("weights")
    if weights is not None:
        if weights.shape != (len(matrix),):
            raise ValueError(f"{source} must have a weight for each row of its table")
        matrix = as_float32(matrix) * as_float32(weights)[:, None]
    return matrix


def _inputs(tensors: dict[str, NDArray[Any]], path: Path) -> NDArray[Any]:
    for end in INPUTS:
        for name, tensor in tensors.items():
            if name.endswith(end) and tensor.ndim == 2:
                return tensor
    raise ValueError(
        f"{path} must have a table of tokens ({', '.join((*STATIC, *INPUTS))}), found "
        f"{', '.join(list(tensors)[:8]) or 'no tensor'}"
    )
