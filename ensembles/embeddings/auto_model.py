"""Any model of sentences, from what stands at a path."""

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

READ = ("StaticEmbedding", "Normalize")  # modules that vectors are read of
OPTIONS = {"texts": "fit", "params": "param"}  # which the command calls otherwise
# Parameters that an encoder has too.
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
    static : bool, default=False
        Whether of a transformer the table of its input tokens is taken, as
        `SentenceEmbedder` does with its path, and the transformer itself is not run.
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
    """What has been made into a model there; None where there are vectors."""
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
