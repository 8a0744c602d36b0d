"""Modules of sentence-transformers directories, and components of pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ensembles.checkpoints.directories.unreadable import explain
from ensembles.checkpoints.directories.weight_files import (
    is_bare,
    main_weight_files,
    other_weight_files,
)
from ensembles.regular_files import read_json

CONFIG = "config.json"
MODULES = "modules.json"  # of sentence-transformers
PIPELINE = "model_index.json"  # of diffusers
PACKAGE = "sentence_transformers."
# Modules with tensors. Those in ONE_FILE are loaded from model.safetensors or
# pytorch_model.bin only, never from shards. WordWeights has a file too, which
# sentence-transformers does not read.
ONE_FILE = {
    *("Dense", "LayerNorm", "LSTM", "CNN", "WordEmbeddings", "StaticEmbedding"),
    *("WeightedLayerPooling", "SparseAutoEncoder", "SparseStaticEmbedding"),
}
WITH_TENSORS = {*ONE_FILE, "Transformer", "MLMTransformer", "CLIPModel"}


def module_classes(path: Path) -> dict[str, str]:
    """Folders of the modules in a directory, with the classes of the modules.

    Parameters
    ----------
    path : Path
        Path of the directory.

    Returns
    -------
    dict of str to str
        Class name by folder, such as ``"2_Dense"`` to ``"Dense"``, for the classes of
        sentence-transformers; otherwise empty. The directory itself is ``""``, first.

    Raises
    ------
    ValueError
        If modules.json, model_index.json or the configuration of a router names a
        folder outside of the directory.
    """
    classes = {"": "", **dict.fromkeys(components(path), "")}
    listed = path / MODULES
    entries = read_json(listed) if listed.exists() else []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            name = entry.get("path", "")
            # Model2Vec writes "." for the directory itself.
            folder = "" if name == "." else _inside(name, listed) if name else ""
            classes[folder] = class_name(entry.get("type"))
    pending = list(classes)
    for folder in pending:  # grows in the loop: routers may be nested
        for route, type_ in _routes(path / folder):
            inner = str(PurePosixPath(folder) / route)
            if inner not in classes:
                classes[inner] = class_name(type_)
                pending.append(inner)
    return classes


def components(path: Path) -> list[str]:
    """Folders of the components of a diffusers pipeline; empty for others.

    Parameters
    ----------
    path : Path
        Path of the directory.

    Returns
    -------
    list of str
    """
    listed = path / PIPELINE
    index = read_json(listed) if listed.exists() else {}
    folders = []
    for name, value in index.items() if isinstance(index, dict) else ():
        # A library and a class, or null for an optional component that is absent.
        if isinstance(value, list) and len(value) == 2 and None not in value:
            folder = _inside(name, listed)
            if (path / folder).is_dir():
                folders.append(folder)
    return folders


def check_component(folder: Path) -> None:
    """Check that the weights of a pipeline's component can be read.

    Parameters
    ----------
    folder : Path
        Path of the component's folder.

    Raises
    ------
    ValueError
        If the folder has a configuration of a model, or copies of weights, without
        weights that can be read.
    """
    if main_weight_files(folder)[0]:
        return
    copies, additional = other_weight_files(folder, [])
    index = next(folder.glob("*.index.*json"), None)
    if index is not None:
        raise ValueError(
            f"{folder} must have weights without a variant, found {index.name}; "
            "download them, or save the pipeline again"
        )
    # Models have a config.json; schedulers, tokenizers and processors have not.
    if not additional and (copies or (folder / CONFIG).exists()):
        raise ValueError(f"{folder} contains no readable weights: {explain(folder)}")


def check_module(folder: Path, module_class: str) -> None:
    """Check that a module of sentence-transformers has weights, if its class has them.

    Parameters
    ----------
    folder : Path
        Path of the module's folder.
    module_class : str
        Class of the module, see `module_classes`.

    Raises
    ------
    ValueError
        If the folder does not exist, or has no weights that can be read.
    """
    if module_class not in WITH_TENSORS:
        return
    if not folder.is_dir():
        raise ValueError(
            f"{folder} does not exist, but modules.json lists it as a module "
            f"{module_class}; download it, or save the model again"
        )
    if not main_weight_files(folder)[0]:
        raise ValueError(
            f"{folder} must have the weights of a module {module_class}, in "
            "model.safetensors or pytorch_model.bin; download them, or save the model "
            f"again ({explain(folder)})"
        )


def _routes(folder: Path) -> Iterator[tuple[str, Any]]:
    """Folders and types of the modules of a sentence-transformers Router."""
    listed = folder / "router_config.json"
    if not listed.exists() and folder.name.endswith("Asym"):
        listed = folder / CONFIG  # its name before version 5
    config = read_json(listed) if listed.exists() else {}
    types = config.get("types") if isinstance(config, dict) else None
    for route, type_ in types.items() if isinstance(types, dict) else ():
        yield _inside(route, listed), type_


def _inside(name: Any, listed: Path) -> str:
    if not is_bare(name):
        raise ValueError(
            f"{listed} must name folders of its own directory, found {name!r}"
        )
    return str(name)


def class_name(type_: Any) -> str:
    """Class of a module, without its package, which differs between versions.

    Parameters
    ----------
    type_ : value
        Type of a module in modules.json or router_config.json.

    Returns
    -------
    str
        Empty for values other than classes of sentence-transformers.
    """
    is_own = isinstance(type_, str) and type_.startswith(PACKAGE)
    return type_.rpartition(".")[2] if is_own else ""
