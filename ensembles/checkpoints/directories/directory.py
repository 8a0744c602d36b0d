"""Read Hugging Face and sentence-transformers directories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories.adapters import adapter_in
from ensembles.checkpoints.directories.auxiliary_files import (
    carried,
    obstacle,
    repository,
)
from ensembles.checkpoints.directories.quantization import quantized_by
from ensembles.checkpoints.directories.unreadable import what_lies_in
from ensembles.checkpoints.directories.weight_files import (
    chosen,
    is_bare,
    others,
    weight_map,
)
from ensembles.checkpoints.formats import contents
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.regular_files import read_json

TOKENIZERS = re.compile(
    r"(tokenizer|vocab)\.(json|txt|model)|merges\.txt|(spiece|sentencepiece)\..*model"
)
ARRAYS = (".npz", ".npy", ".pkl", ".pickle", ".joblib")
# PEFT methods whose update is linear in the stored tensors: their mean is exact.
LINEAR = {
    *("IA3", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "ADAPTION_PROMPT"),
    *("LN_TUNING", "TRAINABLE_TOKENS", "C3A", "MISS", "SHIRA", "BEFT"),
}


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Layout of a checkpoint directory, including all its modules.

    Tensor names of a module are prefixed with its folder (``2_Dense/linear.weight``),
    those of an additional weight file with its stem (``value_head/weight``), and those
    of the main weight files not at all.

    Parameters
    ----------
    path : Path
        Path of the directory.
    key : str or None, default=None
        Key of the state dict in the main weight files, if they are PyTorch checkpoints,
        with dots between nested keys; None finds it.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If no weight file can be read, an index does not match its shards or refers to
        other directories, or the directory has an adapter that cannot be averaged.
    """
    found = Checkpoint(str(path), "directory", path, {}, config=_config(path))
    folders = modules(path)
    for module in folders:
        names, index = chosen(path / module)
        shards = [contents.read(path / module / name, key) for name in names]
        if index is not None:
            _check_index(index, dict(zip(names, shards, strict=True)))
        for name, shard in zip(names, shards, strict=True):
            _join(found, module, name, shard)
    if not found.layout and len(folders) == 1:
        raise ValueError(
            f"{path} holds no weights that can be read: {what_lies_in(path)}"
        )
    files, left = carried(path, folders)
    found.files.extend(files)
    for module in filter(lambda module: (path / module).is_dir(), folders):
        _add_others(found, module, left)
    if not found.layout:
        raise ValueError(
            f"{path} holds no weights that can be read: {what_lies_in(path)}"
        )
    if left:
        found.notes.append(f"not in the result: {', '.join(left)}")
    found.notes.extend(
        f"{name} is copied from the first member, not averaged"
        for name in found.files
        if name.endswith(ARRAYS)
    )
    return found


def modules(path: Path) -> list[str]:
    """Folders of the modules in a directory; the directory itself is ``""``, first."""
    folders = [""]
    listed = path / "modules.json"
    if listed.exists():
        entries = read_json(listed)
        for entry in entries if isinstance(entries, list) else []:
            folder = entry.get("path", "") if isinstance(entry, dict) else ""
            if folder and not is_bare(folder):
                raise ValueError(f"{listed} leaves its directory: {folder!r}")
            if folder and folder not in folders:
                folders.append(folder)
    for folder in folders:  # grows in the loop: routers may be nested
        routes = (str(Path(folder) / route) for route in _routes(path / folder))
        folders.extend(route for route in routes if route not in folders)
    return folders


def _routes(folder: Path) -> Iterator[str]:
    """Folders of the routes in a sentence-transformers Router module."""
    listed = folder / "router_config.json"
    if not listed.exists() and folder.name.endswith("Asym"):
        listed = folder / "config.json"  # its name before version 5
    found = read_json(listed) if listed.exists() else {}
    types = found.get("types") if isinstance(found, dict) else None
    for route in types if isinstance(types, dict) else ():
        if not is_bare(route):
            raise ValueError(f"{listed} leaves its directory: {route!r}")
        yield route


def _config(path: Path) -> dict[str, Any]:
    """Configuration of the model or adapter; rejects adapters without a valid mean."""
    adapter, listed = path / "adapter_config.json", path / "config.json"
    if adapter.exists():
        config = read_json(adapter)
        kind = config.get("peft_type") if isinstance(config, dict) else None
        if kind not in LINEAR:
            raise ValueError(
                f"{path} is a PEFT adapter: the mean of its factors is not the mean of "
                "its updates; merge each adapter into its base model first"
            )
        listed = adapter
    found = read_json(listed) if listed.exists() else {}
    return found if isinstance(found, dict) else {}


def _check_index(index: Path, shards: dict[str, Checkpoint]) -> None:
    """Check that an index and its shards list the same tensors in the same files."""
    mapping = weight_map(index)
    held: dict[str, str] = {}
    for shard, checkpoint in shards.items():
        for name in checkpoint.names:
            if name in held:
                raise ValueError(
                    f"{index.parent}: tensor {name!r} is in two shards, {held[name]} "
                    f"and {shard}"
                )
            held[name] = shard
    for name in sorted(held.keys() | mapping.keys()):
        if held.get(name) != mapping.get(name):
            raise ValueError(
                f"{index} says that tensor {name!r} is in {mapping.get(name)}, "
                f"the shards say {held.get(name)}; write the checkpoint again"
            )


def _join(
    found: Checkpoint, module: str, name: str, shard: Checkpoint, inner: str = ""
) -> None:
    folder = f"{module}/" if module else ""
    prefix = folder + inner
    layout = {prefix + tensor: place for tensor, place in shard.layout.items()}
    found.layout.update(layout)
    found.aliases.update({prefix + a: prefix + k for a, k in shard.aliases.items()})
    found.parts[folder + name] = list(layout)
    found.records.extend(shard.records)
    if not found.metadata:
        found.metadata.update(shard.metadata)
    if inner:
        found.extras[folder + name] = prefix
    found.notes.extend(f"{folder}{name}: {note}" for note in shard.notes)


def _add_others(found: Checkpoint, module: str, left: list[str]) -> None:
    """Add the other weight files of a module, or note that they are left out."""
    folder = Path(str(found.path)) / module
    prefix = f"{module}/" if module else ""
    taken = [file.removeprefix(prefix) for file in found.parts if _is_in(file, prefix)]
    copies, extras = others(folder, taken)
    main = {
        name.removeprefix(prefix): found.layout[name].shape
        for file in taken
        for name in found.parts[prefix + file]
    }
    stems = set()
    for name in sorted(extras, key=lambda name: not name.endswith(".safetensors")):
        extra = _extra(found, folder / name, prefix + name, left)
        stem = Path(name).stem
        if extra is None:
            continue
        if stem in stems or _is_copy(extra, main):
            copies.append(name)
        else:
            stems.add(stem)
            _join(found, module, name, extra, f"{stem}/")
    if copies and taken:
        found.notes.append(
            f"took {', '.join(prefix + name for name in taken)}; left out further "
            f"copies or variants: {', '.join(prefix + name for name in sorted(copies))}"
        )


def _extra(
    found: Checkpoint, file: Path, name: str, left: list[str]
) -> Checkpoint | None:
    """Layout of an additional weight file; None if it is copied or left out."""
    reason = ""
    try:
        if contents.contents_of(file) != "other":
            extra = contents.read(file)
            why_not = _not_averaged(extra)
            if why_not is None:
                return extra
            left.append(f"{name} ({why_not})")
            return None
    except ImportError as error:
        left.append(f"{name} ({error})")
        return None
    except ValueError as error:
        reason = str(error)
    stands = obstacle(file, repository(Path(str(found.path))))
    if stands is not None:
        left.append(f"{name} ({stands})")
        return None
    found.files.append(name)
    if reason:
        found.notes.append(
            f"{name} is copied from the first member, not averaged: {reason}"
        )
    return None


def _not_averaged(extra: Checkpoint) -> str | None:
    """Reason why an additional weight file cannot be averaged, None if it can."""
    adapter = adapter_in(extra)
    if adapter is not None:
        return f"a {adapter[0]} adapter"
    return "quantized weights" if quantized_by(extra) else None


def _is_in(file: str, prefix: str) -> bool:
    return file.startswith(prefix) and "/" not in file.removeprefix(prefix)


def _is_copy(extra: Checkpoint, main: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether most tensors of a file have a name and shape of the main weight files."""
    same = sum(main.get(n) == t.shape for n, t in extra.layout.items())
    return same > 0 and 2 * same >= min(len(main), len(extra.layout))
