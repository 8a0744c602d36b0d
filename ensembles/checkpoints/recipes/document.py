"""Recipes: a merge with its models, method and parameters, read from YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

# A number, text or boolean; a list of them is a gradient over the layers; a list of
# mappings with `value` and `filter` has one for the tensors of each filter.
Setting = Any


@dataclass(frozen=True)
class Source:
    """A model of a recipe, with its parameters.

    Parameters
    ----------
    model : str
        Path of the model as written, optionally followed by ``+`` and the path of an
        adapter.
    parameters : mapping of str to value
        Parameters of this model, such as ``weight``; see `Setting`.
    layer_range : (int, int) or None, default=None
        First layer, and the layer after the last; None for all layers.
    line : int, default=0
        Line of the recipe, from 1.
    """

    model: str
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    layer_range: tuple[int, int] | None = None
    line: int = 0


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the result, and the models that they are merged from.

    Parameters
    ----------
    sources : tuple of Source
        Models with a range of layers each, all of the same length.
    parameters : mapping of str to value
        Parameters of the slice.
    base_model : str or None, default=None
        Base of the slice; None means that of the recipe.
    line : int, default=0
        Line of the recipe, from 1.
    """

    sources: tuple[Source, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base_model: str | None = None
    line: int = 0


@dataclass(frozen=True)
class Recipe:
    """One merge.

    Parameters
    ----------
    method : str
        Name of the merge method in mergekit, such as "linear" or "ties".
    models : tuple of Source
        Models that are merged; empty if there are slices.
    slices : tuple of Slice
        Slices of the result; empty if there are models.
    base_model : str or None
        Path of the base.
    parameters : mapping of str to value
        Parameters of the merge.
    dtype : str or None
        Dtype of the result; mergekit also computes in it.
    out_dtype : str or None
        Dtype of the result, before ``dtype``.
    name : str or None
        Name of the result in a file with several merges.
    path : Path
        File that the recipe was read from.
    line : int
        Line of the recipe, from 1.
    """

    method: str
    models: tuple[Source, ...]
    slices: tuple[Slice, ...] = ()
    base_model: str | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    name: str | None = None
    path: Path = Path()
    line: int = 1


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
