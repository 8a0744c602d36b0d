"""Settings of sentence-transformers modules, in the same form for all versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles.checkpoints.directories.modules import class_name

MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
DIMENSION = "embedding_dimension"
OLD_DIMENSION = f"word_{DIMENSION}"  # before version 5.3


def comparable(contents: Any) -> dict[str, Any] | None:
    """Settings as a mapping in which equal values mean the same.

    Parameters
    ----------
    contents : value
        Contents of a JSON file, such as ``modules.json`` or ``1_Pooling/config.json``.

    Returns
    -------
    dict or None
        Classes of modules without their package, which differs between versions;
        modes of pooling with their current name; stop words in order. Other settings
        are returned as they are, and None for values other than objects and lists of
        modules.
    """
    if isinstance(contents, list):
        is_modules = all(isinstance(entry, dict) for entry in contents)
        pairs = [
            (e.get("path", ""), _kind(e.get("type"))) for e in contents * is_modules
        ]
        return {"module classes": pairs} if is_modules else None
    if not isinstance(contents, dict):
        return None
    settings = _with_pooling_mode(contents)
    if isinstance(settings.get("types"), dict):  # of a router
        types = settings["types"]
        settings["types"] = {name: _kind(type_) for name, type_ in types.items()}
    if isinstance(settings.get("stop_words"), list):  # saved from a set
        settings["stop_words"] = sorted(map(str, settings["stop_words"]))
    return settings


def _kind(type_: Any) -> str:
    return class_name(type_) or str(type_)


def _with_pooling_mode(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the keys of the current version, if they are those of a pooling."""
    settings = dict(contents)
    if not (MODES.keys() & settings.keys() or "pooling_mode" in settings):
        return settings
    modes = [mode for key, mode in MODES.items() if settings.pop(key, False)]
    stored = settings.get("pooling_mode", modes or "mean")
    settings["pooling_mode"] = [stored] if isinstance(stored, str) else list(stored)
    settings.setdefault("include_prompt", True)
    if OLD_DIMENSION in settings:
        settings.setdefault(DIMENSION, settings.pop(OLD_DIMENSION))
    return settings
