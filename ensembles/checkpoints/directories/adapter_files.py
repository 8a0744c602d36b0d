"""Open low-rank adapters: directories of PEFT, and files of kohya and diffusers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories.auxiliary_files import auxiliary_files
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats import detection, state_dict
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys, UnsupportedSource
from ensembles.checkpoints.formats.lora.adapter import Adapter
from ensembles.checkpoints.formats.lora.peft import parse
from ensembles.checkpoints.formats.lora.read import adapter_of, is_adapter
from ensembles.regular_files import read_json

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
AdapterSource = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


def open_adapter(member: AdapterSource, index: int = 0) -> Adapter:
    """Open a low-rank adapter, without reading its factors.

    Parameters
    ----------
    member : path, state dict or Checkpoint
        Directory of PEFT with ``adapter_config.json``, weight file in such a directory,
        file of kohya or diffusers, state dict with their names, or an opened
        checkpoint.
    index : int, default=0
        Position among the members, for messages about state dicts.

    Returns
    -------
    Adapter

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If it is not an adapter of LoRA, or a damaged one.
    """
    if isinstance(member, Checkpoint):
        checkpoint = member
    elif isinstance(member, Mapping):
        checkpoint = state_dict.read(member, f"members[{index}]")
    else:
        path = Path(member)
        if not path.exists():
            raise FileNotFoundError(f"no adapter at {path}")
        checkpoint = _read_directory(path) if path.is_dir() else _read_file(path)
    for tensor in checkpoint.layout.values():
        if isinstance(tensor.source, UnsupportedSource):
            raise ValueError(tensor.source.message)
    return adapter_of(checkpoint)


def open_with_adapters(
    member: AdapterSource, index: int, *, key: Keys = None
) -> Checkpoint:
    """Layout of a checkpoint, or of an adapter, whose tensors are not averaged.

    Parameters
    ----------
    member, index, key
        As in `ensembles.checkpoints.directories.open.read_layout`.

    Returns
    -------
    Checkpoint
    """
    if isinstance(member, str | os.PathLike) and has_adapter(Path(member)):
        return open_adapter(member, index).checkpoint
    return open_checkpoint(member, index, key=key)


def has_adapter(path: Path) -> bool:
    """Whether a path has a LoRA adapter: a directory of PEFT, or a file with factors.

    Parameters
    ----------
    path : Path
        File or directory, which may not exist.

    Returns
    -------
    bool
    """
    with suppress(ValueError):  # of files that have another problem
        if path.is_dir() and (path / CONFIG).exists():
            return _read_config(path).get("peft_type") == "LORA"
        if path.is_file():
            return is_adapter(detection.read(path, None))
    return False


def _read_directory(path: Path) -> Checkpoint:
    """Layout of a directory of PEFT."""
    name = next((name for name in WEIGHTS if (path / name).is_file()), None)
    if name is None or not (path / CONFIG).exists():
        absent = CONFIG if name is not None else WEIGHTS[0]
        hint = ""
        if name is None and not (path / CONFIG).exists():
            hint = "; pass base=PATH (--base PATH) to merge adapters with models"
        raise ValueError(
            f"{path} must have {CONFIG} and {WEIGHTS[0]} to be an adapter of PEFT: it "
            f"has no {absent}{hint}"
        )
    file = detection.read(path / name, None)
    files, left_out = auxiliary_files(path, [""])
    notes = [f"not in the result: {', '.join(left_out)}"] if left_out else []
    return replace(
        file,
        name=str(path),
        path=path,
        is_directory=True,
        config=_read_config(path),
        files=files,
        notes=[*file.notes, *notes],
    )


def _read_file(path: Path) -> Checkpoint:
    """Layout of a file, with the configuration in its folder if its names need one."""
    file = detection.read(path, None)
    if (path.parent / CONFIG).exists() and any(map(parse, file.layout)):
        return replace(file, config=_read_config(path.parent))
    return file


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise ValueError(
            f"{folder / CONFIG} must be a JSON object, found {config!r:.80}"
        )
    return config
