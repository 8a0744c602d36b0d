"""Opens the sentence model at a path: embedder, transformer or word vectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.encoder import SentenceEncoder
from ensembles.embeddings.vectors.model_directory import OWN, is_static
from ensembles.embeddings.vectors.model_files import settings_of
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.regular_files import read_json

# Modules that `read_vectors` reads as a vector table.
READ = ("StaticEmbedding", "Normalize")
# Parameters whose command-line option has another name.
OPTIONS = {
    "texts": "fit",
    "rule_params": "rule-param",
    "weights_params": "weights-param",
}
# Parameters that SentenceEncoder has too.
SHARED = ("normalize", "n_components", "dtype")


def open_model(
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
    place = Path(path)
    kind = _kind(place)
    if kind is None or (static and kind is SentenceEncoder):
        vectors = read_vectors(place, limit=limit, errors=errors)
        own: dict[str, Any] = {"normalize": bool(vectors.normalize)}
        if vectors.weighted:
            own["weights"] = None
        return SentenceEmbedder(vectors, **{**own, **params}).fit(texts)
    taken = SHARED if kind is SentenceEncoder else ("n_jobs",)
    learned = {"limit": limit, "errors": errors, "texts": texts}
    given = [*params, *(name for name, value in learned.items() if value is not None)]
    for name in given:
        if name not in (*taken, "n_jobs"):
            option = OPTIONS.get(name, name).replace("_", "-")
            does_not = f"{name} (--{option}) does not apply to {place}"
            if kind is SentenceEncoder:
                raise ValueError(
                    f"{does_not}, a transformer, which takes {', '.join(taken)} alone; "
                    "static=True (--static) takes the table of its tokens, to which "
                    "everything applies"
                )
            raise ValueError(
                f"{does_not}, a saved SentenceEmbedder, which has learned and takes "
                f"{', '.join(taken)} alone"
            )
    if kind is SentenceEncoder:
        params.pop("n_jobs", None)
        return SentenceEncoder(str(place), **params).fit()
    saved = SentenceEmbedder.load(place)
    saved.set_params(**params)
    return saved


def _kind(place: Path) -> type[SentenceEmbedder] | type[SentenceEncoder] | None:
    """Class of the model in a directory; None for word vectors."""
    if not place.is_dir():
        return None
    config, modules = _json(place / "config.json"), _json(place / "modules.json")
    if isinstance(config, dict) and OWN in config:
        return SentenceEmbedder
    if isinstance(modules, list) and all(isinstance(one, dict) for one in modules):
        types = [str(module.get("type")) for module in modules]
        static = all(kind.endswith(READ) for kind in types)
        return None if static and types and not settings_of(place) else SentenceEncoder
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not config or kind == "model2vec" or (kind is None and is_static(place)):
        return None
    return SentenceEncoder


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
