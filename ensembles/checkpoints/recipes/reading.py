"""Read recipes from YAML files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ensembles.checkpoints.recipes.document import Recipe, Source


def read_recipes(path: str | os.PathLike[str]) -> tuple[Recipe, ...]:
    """Read the merges of a YAML file.

    Parameters
    ----------
    path : path
        File with one or more documents.

    Returns
    -------
    tuple of Recipe
        In the order of the file.

    Raises
    ------
    ValueError
        If the file is not a valid recipe; the message lists all problems with their
        lines.
    """
    path = Path(path)
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return tuple(_recipe(entries, path) for entries in documents)


def _recipe(entries: Mapping[str, Any], path: Path) -> Recipe:
    return Recipe(
        method=entries["merge_method"],
        models=tuple(
            Source(entry["model"], entry.get("parameters") or {})
            for entry in entries["models"]
        ),
        base_model=entries.get("base_model"),
        parameters=entries.get("parameters") or {},
        dtype=entries.get("dtype"),
        out_dtype=entries.get("out_dtype"),
        path=path,
    )
