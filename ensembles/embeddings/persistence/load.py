"""Load the values of a fitted embedder from a saved directory."""

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

LEARNED = (
    *("weights", "weights_params", "rule_params", "remove_components", "whiten"),
    "n_components",
)


class LoadedEmbedder(NamedTuple):
    """State of a saved embedder, without its vector table.

    Parameters
    ----------
    params : dict of str to value
        Constructor parameters that configure reading and pooling of the table.
    learned_params : dict of str to value
        Constructor parameters of the weighting and the projection; empty if both are
        folded into the table.
    row_weights : ndarray of shape (n_rows,), float32, or None
        Weight of each row of the table; None weighs every word equally.
    projection : Projection or None
        Removed components, whitening and principal axes; None if not used or folded.
    unmet : float
        Weight of an out-of-vocabulary word.
    divide : {"weights", "count"}
        Divisor of the weighted sum: the sum of the weights, or the number of words.
    scale : float or None
        Largest magnitude of the training vectors, for int8; None for other dtypes.
    coverage : float
        Share of the training tokens that have a vector; NaN without training texts.
    n_features_out : int
        Number of columns of the output of ``transform``.
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
    """Load the state of an embedder that `ensembles.embeddings.persistence.save` saved.

    Parameters
    ----------
    path : path
        Directory of the saved embedder.

    Returns
    -------
    LoadedEmbedder

    Raises
    ------
    FileNotFoundError
        If the directory or a file in it does not exist.
    ValueError
        If a file is corrupt.
    KeyError, TypeError, AttributeError
        If ``config.json`` does not have the structure or the version that `save`
        writes.
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
