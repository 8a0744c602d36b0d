"""Any model of sentences, from what stands at a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.encoder import SentenceEncoder
from ensembles.embeddings.vectors.models import OWN, is_static
from ensembles.embeddings.vectors.reading import read_vectors
from ensembles.regular_files import read_json

READ = ("StaticEmbedding", "Normalize")  # modules that vectors are read of
# Parameters that an encoder has too.
SHARED = ("normalize", "n_components", "dtype")


def open_model(
    path: str | os.PathLike[str],
    texts: Any = None,
    *,
    limit: int | None = None,
    errors: str | None = None,
    **params: Any,
) -> SentenceEmbedder | SentenceEncoder:
    """Fitted model of sentences: a saved embedder, a transformer, or word vectors.

    Parameters
    ----------
    path : path
        A directory that `SentenceEmbedder.save` wrote, a directory of a transformer, or
        vectors as `read_vectors` takes them.
    texts : iterable of str or None, default=None
        What word vectors learn weights and components from.
    limit : int or None, default=None
        Read the first so many of the vectors.
    errors : {"strict", "replace", "ignore", "backslashreplace"} or None, default=None
        What becomes of tokens that are not UTF-8, as in `read_vectors`.
    **params
        Of `SentenceEmbedder`; of an encoder ``normalize``, ``n_components`` and
        ``dtype`` alone. What vectors say of themselves is the default: those that are
        made for a plain mean have no weights, and are normalized if their model is.

    Returns
    -------
    SentenceEmbedder or SentenceEncoder

    Raises
    ------
    ValueError
        If there is something else, or parameters are given to what has its own.
    """
    place = Path(path)
    if (kind := _kind(place)) is None:
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
            raise ValueError(
                f"{name} cannot be given for {place}: {kind.__name__} has learned, and "
                f"takes {' and '.join(taken)} alone"
            )
    if kind is SentenceEncoder:
        params.pop("n_jobs", None)
        return SentenceEncoder(str(place), **params).fit()
    saved = SentenceEmbedder.load(place)
    saved.set_params(**params)
    return saved


def _kind(place: Path) -> type[SentenceEmbedder] | type[SentenceEncoder] | None:
    """What has been made into a model there; None where there are vectors."""
    if not place.is_dir():
        return None
    config, modules = _json(place / "config.json"), _json(place / "modules.json")
    if isinstance(config, dict) and OWN in config:
        return SentenceEmbedder
    if isinstance(modules, list) and all(isinstance(one, dict) for one in modules):
        types = [str(module.get("type")) for module in modules]
        static = all(kind.endswith(READ) for kind in types)
        return None if static and types else SentenceEncoder
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not config or kind == "model2vec" or (kind is None and is_static(place)):
        return None
    return SentenceEncoder


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
