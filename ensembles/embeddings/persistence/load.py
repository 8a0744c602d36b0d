"""Load a fitted embedder from a saved directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.persistence.save import PARAMETERS, PROJECTION, SavedEmbedder
from ensembles.embeddings.pooling.builtin import resolve_poolings, split_rule_params
from ensembles.embeddings.postprocessing.projection import Projection
from ensembles.embeddings.postprocessing.quantization import check_dtype
from ensembles.embeddings.text_average import TextAverager
from ensembles.embeddings.vectors.lookup import VocabularyLookup
from ensembles.embeddings.vectors.model_directory import OWN, check_version
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.vectors.safetensors import map_tensors
from ensembles.embeddings.weighting.row_weights import check_row_weights
from ensembles.regular_files import read_json


def is_saved(path: Path) -> bool:
    """Whether `ensembles.embeddings.persistence.save` wrote a directory.

    Parameters
    ----------
    path : Path
        Any path.

    Returns
    -------
    bool
    """
    try:
        config = read_json(path / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return isinstance(config, dict) and OWN in config


def load(path: str | os.PathLike[str]) -> SavedEmbedder:
    """Load the state of an embedder that `ensembles.embeddings.persistence.save` saved.

    Parameters
    ----------
    path : path
        Directory of the saved embedder.

    Returns
    -------
    SavedEmbedder
        The state, with the vectors memory-mapped.

    Raises
    ------
    FileNotFoundError
        If the directory or a file in it does not exist.
    ValueError
        If a file is damaged, or `save` did not write the directory.
    """
    path = Path(path)
    config = read_json(path / "config.json")
    saved = config.get(OWN) if isinstance(config, dict) else None
    if not isinstance(saved, dict):
        raise ValueError(
            f"SentenceEmbedder.save did not write {path}; use "
            "SentenceEmbedder(path, weights=None).fit() to read the model of another "
            "library"
        )
    check_version(path, saved)
    try:
        return _load(path, saved)
    except FileNotFoundError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(
            f"{path} is damaged, or SentenceEmbedder.save did not write it: {reason}"
        ) from None


def _load(path: Path, saved: dict[str, Any]) -> SavedEmbedder:
    params, state, folded = dict(saved["parameters"]), saved["state"], saved["folded"]
    if unknown := params.keys() - {*PARAMETERS}:
        raise ValueError(f"unknown parameters {', '.join(sorted(unknown))}")
    dtype = check_dtype(str(params["dtype"]))
    lookup = VocabularyLookup(
        read_vectors(path), params["tokenizer"], params["lowercase"], params["unknown"]
    )
    rules = resolve_poolings(params["rule"])
    rule_params = split_rule_params(rules, params.get("rule_params"))
    averager, projection = TextAverager(lookup, rules, rule_params), None
    if not folded:
        tensors = map_tensors(path / "model.safetensors")
        weights = tensors.get("row_weights")
        if weights is not None:
            weights = check_row_weights(weights, len(lookup.vectors.tokens))
        if state["divide"] not in ("weights", "count"):
            raise ValueError(f"divide must not be {state['divide']!r}")
        averager = TextAverager(
            *(lookup, rules, rule_params, weights),
            oov_weight=float(state["oov_weight"]),
            divide=state["divide"],
        )
        if params["weights"] is None:  # only names of weightings are saved
            params["weights"] = weights
        projection = _projection(tensors, averager.n_columns)
    scale, coverage = state["scale"], state["coverage"]
    if (dtype == "int8") != (scale is not None):
        raise ValueError(f"scale of dtype {dtype!r} must not be {scale!r}")
    return SavedEmbedder(
        {"vectors": str(path), **params},
        averager,
        projection,
        normalize=bool(params["normalize"]),
        dtype=dtype,
        scale=None if scale is None else float(scale),
        coverage=float("nan" if coverage is None else coverage),
    )


def _projection(tensors: dict[str, NDArray[Any]], n_columns: int) -> Projection | None:
    if "projection.matrix" not in tensors:
        return None
    parts = [np.array(tensors[f"projection.{name}"], np.float64) for name in PROJECTION]
    matrix, mean = parts[:2]
    if matrix.ndim != 2 or len(matrix) != n_columns or mean.shape != (n_columns,):
        raise ValueError(
            f"its projection must have {n_columns} rows, found a matrix of shape "
            f"{matrix.shape} and a mean of shape {mean.shape}"
        )
    return Projection(*parts)
