"""Opens the sentence model at a path: embedder, transformer or word vectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.encoder import SentenceEncoder
from ensembles.embeddings.vectors.model_directory import OWN, is_static, vector_settings
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.regular_files import read_json

# Modules that `read_vectors` reads as a vector table.
TABLE_MODULES = ("StaticEmbedding", "Normalize")
# Parameters whose command-line option has another name.
OPTIONS = {
    "texts": "fit",
    "rule_params": "param",
    "weights_params": "weights-param",
}
# Parameters that SentenceEncoder has too.
ENCODER_PARAMS = ("normalize", "n_components", "dtype")


def load_model(
    path: str | os.PathLike[str],
    texts: Any = None,
    *,
    limit: int | None = None,
    errors: str | None = None,
    static: bool = False,
    **params: Any,
) -> SentenceEmbedder | SentenceEncoder:
    """Open a saved embedder, a transformer or word vectors as a fitted model.

    Parameters
    ----------
    path : path
        Directory written by `SentenceEmbedder.save`, directory of a transformer, or
        word vectors in a format that `read_vectors` reads.
    texts : iterable of str or None, default=None
        Training texts from which a model of word vectors learns its weights and
        components. None fits without texts.
    limit : int or None, default=None
        Number of vectors to read from the start of the file; None reads all.
    errors : {"strict", "replace", "ignore", "backslashreplace"} or None, default=None
        Error handler for tokens that are not valid UTF-8, as in `read_vectors`.
    static : bool, default=False
        Whether to read only the input embedding table of a transformer, as
        `SentenceEmbedder` does with its path, instead of running the transformer.
    **params
        Parameters of `SentenceEmbedder`. A saved embedder takes only ``n_jobs``, a
        transformer only ``normalize``, ``n_components`` and ``dtype``; it ignores
        ``n_jobs``. For word vectors the defaults follow the file: ``weights=None`` if
        word weights are already part of the vectors, and ``normalize`` as the model's
        configuration says.

    Returns
    -------
    SentenceEmbedder or SentenceEncoder
        The fitted model.

    Raises
    ------
    ValueError
        If the path holds none of these, or a parameter does not apply to the model.
    """
    path = Path(path)
    model_class = _model_class(path)
    if model_class is None or (static and model_class is SentenceEncoder):
        vectors = read_vectors(path, limit=limit, errors=errors)
        defaults: dict[str, Any] = {"normalize": bool(vectors.normalize)}
        if vectors.preweighted:
            defaults["weights"] = None
        return SentenceEmbedder(vectors, **{**defaults, **params}).fit(texts)
    reading = {"limit": limit, "errors": errors, "texts": texts}
    names = [*params, *(name for name, value in reading.items() if value is not None)]
    accepted = ENCODER_PARAMS if model_class is SentenceEncoder else ()
    for name in names:
        if name not in (*accepted, "n_jobs"):
            option = OPTIONS.get(name, name).replace("_", "-")
            message = f"{name} (--{option}) does not apply to {path}"
            if model_class is SentenceEncoder:
                raise ValueError(
                    f"{message}, a transformer, which accepts only "
                    f"{', '.join(accepted)}; static=True (--static) uses the table of "
                    "its input embeddings instead, to which all parameters apply"
                )
            raise ValueError(
                f"{message}, a saved SentenceEmbedder, which is fitted already and "
                "accepts only n_jobs"
            )
    if model_class is SentenceEncoder:
        params.pop("n_jobs", None)
        return SentenceEncoder(str(path), **params).fit()
    embedder = SentenceEmbedder.load(path)
    embedder.set_params(**params)
    return embedder


def _model_class(
    path: Path,
) -> type[SentenceEmbedder] | type[SentenceEncoder] | None:
    """Class of the model in a directory; None for word vectors."""
    if not path.is_dir():
        return None
    config, modules = _json(path / "config.json"), _json(path / "modules.json")
    if isinstance(config, dict) and OWN in config:
        return SentenceEmbedder
    if isinstance(modules, list) and all(isinstance(m, dict) for m in modules):
        types = [str(module.get("type")) for module in modules]
        is_table = bool(types) and all(name.endswith(TABLE_MODULES) for name in types)
        return None if is_table and not vector_settings(path) else SentenceEncoder
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not config or model_type == "model2vec":
        return None
    return None if model_type is None and is_static(path) else SentenceEncoder


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
