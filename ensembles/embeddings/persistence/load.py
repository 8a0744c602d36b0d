"""Read the values of a fitted embedder from a directory that was saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float32
from ensembles.embeddings.persistence.save import PROJECTION, VERSION
from ensembles.embeddings.pooling.spec import Divide
from ensembles.embeddings.postprocessing.projection import Projection
from ensembles.embeddings.vectors.model_directory import OWN
from ensembles.embeddings.vectors.safetensors import arrays
from ensembles.regular_files import read_json

LEARNED = ("weights", "remove_components", "whiten", "n_components", "params")


class LoadedEmbedder(NamedTuple):
    """What a saved directory holds beside the table that it is.

    Parameters
    ----------
    params : dict of str to value
        Constructor parameters that say how the table is read and pooled.
    learned_params : dict of str to value
        Those of what was learned from texts; empty where it is folded into the table.
    row_weights : ndarray of shape (n_rows,), float32, or None
        One weight a row of the table.
    projection : Projection or None
        Removed components, whitening and principal axes.
    unmet : float
        Weight of a word without a row.
    divide : {"weights", "count"}
        What a weighted sum is divided by.
    scale : float or None
        Scale of int8.
    coverage : float
        Share of the training tokens that have a vector, or NaN.
    n_features_out : int
        Columns of the output of ``transform``.
    """

    params: dict[str, Any]
    learned_params: dict[str, Any]
    row_weights: Float32 | None
    projection: Projection | None
    unmet: float
    divide: Divide
    scale: float | None
    coverage: float
    n_features_out: int


def load(path: str | os.PathLike[str]) -> LoadedEmbedder:
    """Read what `ensembles.embeddings.persistence.save` wrote.

    Parameters
    ----------
    path : path
        The directory.

    Returns
    -------
    LoadedEmbedder

    Raises
    ------
    KeyError, TypeError, AttributeError
        If ``config.json`` is not as `save` writes it.
    """
    folder = Path(path)
    own = read_json(folder / "config.json")[OWN]
    if own["version"] != VERSION:
        raise TypeError(f"version {own['version']!r}")
    params, state = dict(own["parameters"]), own["state"]
    defaults = {"weights": None, "remove_components": 0}
    learned = {name: params.pop(name, defaults.get(name)) for name in LEARNED}
    tensors = {} if own["folded"] else arrays(folder / "model.safetensors")
    weights, projection = tensors.get("row_weights"), None
    if "projection.matrix" in tensors:
        parts = (np.array(tensors[f"projection.{name}"]) for name in PROJECTION)
        projection = Projection(*parts)
    scale, coverage = state["scale"], state["coverage"]
    return LoadedEmbedder(
        params,
        {} if own["folded"] else learned,
        None if weights is None else np.array(weights, np.float32),
        projection,
        float(state["unmet"]),
        state["divide"],
        None if scale is None else float(scale),
        float("nan" if coverage is None else coverage),
        int(state["n_features_out"]),
    )
