"""Fitted embedders from a directory that was saved: the other half of `saving`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.averaging import Average, rules_of, split_params, weighting_of
from ensembles.embeddings.components import Projection
from ensembles.embeddings.finishing import check_dtype
from ensembles.embeddings.saving import PROJECTION, VERSION
from ensembles.embeddings.vectors.models import OWN
from ensembles.embeddings.vectors.tensors import arrays
from ensembles.regular_files import read_json

if TYPE_CHECKING:
    from ensembles.embeddings.embedder import SentenceEmbedder

LEARNED = ("whiten", "n_components", "params")  # set when the table has been read


def load(path: str | os.PathLike[str]) -> SentenceEmbedder:
    """Fitted embedder from a directory that `save` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    SentenceEmbedder
        One whose table is folded has no weights and components of its own: they are
        part of its vectors. Its clones, fitted, are the same; those of int8 have to be
        fitted to texts, for its scale.

    Raises
    ------
    ValueError
        If the directory is not one that `save` wrote.
    """
    folder = Path(path)
    try:
        own = read_json(folder / "config.json")[OWN]
        if own["version"] != VERSION:
            raise TypeError(f"version {own['version']!r}")
        return _loaded(folder, own)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} is no saved SentenceEmbedder: {error!r}; a model of others is "
            "read by SentenceEmbedder(path, weights=None).fit()"
        ) from None


def _loaded(folder: Path, own: dict[str, Any]) -> SentenceEmbedder:
    from ensembles.embeddings.embedder import SentenceEmbedder

    given, state = dict(own["parameters"]), own["state"]
    tensors = {} if own["folded"] else arrays(folder / "model.safetensors")
    learned = given.pop("weights"), given.pop("remove_components", 0)
    steps = {name: given.pop(name, None) for name in LEARNED}
    dtype = check_dtype(given.pop("dtype"))
    embedder = SentenceEmbedder(str(folder), weights=None, **given).fit()
    embedder.dtype = embedder._dtype = dtype
    if not own["folded"]:
        embedder.weights, embedder.remove_components = learned
        embedder.set_params(**steps)
        _restore(embedder, tensors, float(state["unmet"]), state["divide"])
    scale = state["scale"]
    embedder.scale_ = None if scale is None else float(scale)
    coverage = state["coverage"]
    embedder.coverage_ = float("nan" if coverage is None else coverage)
    embedder._n_features_out = int(state["n_features_out"])
    return embedder


def _restore(
    embedder: SentenceEmbedder,
    tensors: dict[str, NDArray[Any]],
    unmet: float,
    divide: Any,
) -> None:
    """Give an embedder what another one has learned."""
    weights = tensors.get("row_weights")
    if weights is not None:
        weights = np.array(weights, np.float32)
        if embedder.weights is None:  # they were given, not learned
            embedder.weights = weights
    rules = rules_of(embedder.rule)
    weighting = weighting_of(embedder.weights)
    by_rule, _ = split_params(embedder.params, rules, weighting)
    embedder._average = Average(
        embedder._average.rows, rules, weights, unmet, divide, by_rule
    )
    embedder.weights_ = weights
    if "projection.matrix" in tensors:
        found = (np.array(tensors[f"projection.{name}"]) for name in PROJECTION)
        embedder.projection_ = Projection(*found)
