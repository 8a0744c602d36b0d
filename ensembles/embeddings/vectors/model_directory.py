"""Token tables of model directories: model2vec, static embeddings, transformers."""

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

# What a saved SentenceEmbedder adds: its section of config.json, a table that only it
# knows how to use.
OWN, TABLE = "ensembles", "table"
# What a directory is read as.
STATIC_MODEL, TOKEN_TABLE = "static model", "token table of a transformer"
SAVED = "saved SentenceEmbedder"
MEAN_FLAG = "pooling_mode_mean_tokens"
CHANGING = ("stop_words", "do_lower_case")  # of a tokenizer of WordEmbeddings


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Token table of a model directory, with its tokenizer.

    Parameters
    ----------
    path : Path
        A directory of model2vec, of sentence-transformers or of transformers.
    limit : None
        A tokenizer's ids need all rows.
    errors : str
        Not used: a tokenizer's tokens are text.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If there is no table or no tokenizer, or they do not fit.
    ImportError
        If tokenizers is not installed.
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
    """Warn of parts of a sentence-transformers model that its table does not have."""
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
    """Whether a Pooling module takes the mean: older versions have a flag a mode."""
    flags = {key for key, value in config.items() if value is True}
    others = {key for key in flags if key.startswith("pooling_mode_")} - {MEAN_FLAG}
    return config.get("pooling_mode", "mean") in ("mean", ["mean"]) and not others


def is_static(path: Path) -> bool:
    """Whether a directory holds the table of a static model, and says nothing else."""
    try:
        found = tensors_of(path)
    except (FileNotFoundError, ValueError):
        return False
    return any(name in found for name in STATIC)


def _word_embeddings(folder: Path, matrix: NDArray[Any]) -> WordVectors:
    """Words of a module WordEmbeddings of sentence-transformers, and their vectors."""
    place = folder / "whitespacetokenizer_config.json"
    words = json_of(place).get("vocab")
    if not isinstance(words, list) or len(words) != len(matrix):
        raise ValueError(f"{place} must have a vocab of {len(matrix)} words")
    tokens = [check_token(word, str(place)) for word in words]
    source, kind = str(folder), "WordEmbeddings of sentence-transformers"
    return WordVectors(tokens, as_float32(matrix), source=source, format=kind)


def _own(path: Path, own: dict[str, Any]) -> WordVectors:
    """Table of a saved SentenceEmbedder, which may have words for tokens."""
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
    # The last one stands for unknown words, to those who have to have it.
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
    """Word vectors whose rows are the ids of a Hugging Face tokenizer.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, dim)
    tokenizer : tokenizers.Tokenizer
    weighted : bool
    normalize : bool or None, default=None
    source : str
    format : str, default="static model"

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If the tokenizer has ids beyond the rows.
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
    """Id of what a tokenizer puts in the place of unknown text."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_token") is not None:
        found = tokenizer.token_to_id(model["unk_token"])
    else:
        found = model.get("unk_id")
    return None if found is None else int(found)


def static_table(tensors: dict[str, NDArray[Any]], name: str, source: str) -> Any:
    """Table of a static model; model2vec may share rows and scale them."""
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
