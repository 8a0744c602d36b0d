"""Find the main weight files of a folder, copies of them, and additional ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ensembles.checkpoints.formats.detection import (
    format_by_suffix,
    formats_by_preference,
)
from ensembles.regular_files import read_json

LONGEST_NAME = 255  # bytes, on Linux and macOS
# Suffixes of weight files of other frameworks, unless `FORMATS` has a reader for them.
FOREIGN = (
    *(".h5", ".keras", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot"),
    *(".mlmodel", ".mlpackage", ".pdparams", ".pdiparams", ".engine", ".nemo"),
)
# Training state beside the weight files: optimizers, random generators, ….
TRAINER = re.compile(
    r"((lr_)?scheduler|grad_scaler|scaler(?!\.(pkl|joblib))|training_args|training_state|trainer"
    r"|rng_state|random_states|sampler|custom_checkpoint|dl_state_dict)([._-].*)?"
    r"|optim(izer)?([._\-\d].*)?|opt\d*\.pt|.*[_-]optim(izer)?(_states?)?\.(pt|bin)"
    r"|meta([._-]\d+)?\.(pt|pth|bin)"
)
# Usual names of copies of the main weight files: other precision, framework or
# sharding.
COPY = re.compile(
    r"(model|pytorch_model|diffusion_pytorch_model|openvino_model|tf_model|flax_model"
    r"|open_clip_(pytorch_)?model|consolidated|weights|pytorch_model_fsdp|rust_model"
    r"|adapter_model|adapter|pytorch_adapter)"
    r"([._-](fp\d+|bf16|int[48]|ema|non_ema|q\w*|quantized|optimized|fused|\d+))*"
    r"(-\d+-of-\d+)?\.\w+"
)

# Folders with copies in other formats, or with tensor names of the original code.
COPIES = {"onnx", "openvino", "original", "coreml", "gguf", "flax", "tf", "metal"}


def is_weight_file(name: str) -> bool:
    """Whether a file has the suffix of a format in `FORMATS`."""
    return format_by_suffix(name) is not None


def is_directory_part(name: str) -> bool:
    """Whether a file is a weight file of the directory that it is in, by its suffix."""
    format_ = format_by_suffix(name)
    return format_ is not None and format_.in_directories


def main_weight_files(path: Path) -> tuple[list[str], Path | None]:
    """Main weight files in one folder, with the index of a sharded checkpoint.

    Parameters
    ----------
    path : Path
        Path of the folder; its subfolders are not searched.

    Returns
    -------
    names : list of str
        File names; empty if the folder has no weight file with a usual name.
    index : Path or None
        Path of the index that lists the shards; None for a single file.

    Raises
    ------
    ValueError
        If an index names a file that is not in the folder.
    """
    for format_ in formats_by_preference():
        for name in format_.main_files:
            single, index = path / name, path / f"{name}.index.json"
            if single.exists() and not (index.exists() and _is_shard(single, index)):
                return [name], None
            if index.exists():
                return _shards(index), index
        for suffix in dict.fromkeys(Path(name).suffix for name in format_.main_files):
            for index in sorted(path.glob(f"*{suffix}.index.json")):
                # A dot marks a variant, as in model.fp16.safetensors.index.json.
                if "." not in index.name.removesuffix(f"{suffix}.index.json"):
                    return _shards(index), index
    return [], None


def other_weight_files(path: Path, main: list[str]) -> tuple[list[str], list[str]]:
    """Weight files of a folder other than the main ones.

    Parameters
    ----------
    path : Path
        Path of the folder; its subfolders are not searched.
    main : list of str
        Names of the main weight files.

    Returns
    -------
    copies : list of str
        Names of files and folders that, by name, are copies of the main weight files.
    additional : list of str
        Names of all other weight files.
    """
    copies: list[str] = []
    additional: list[str] = []
    for file in sorted(path.iterdir()):
        name = file.name
        if name in main or name.startswith(".") or TRAINER.fullmatch(name):
            continue
        if name in COPIES and file.is_dir():
            copies.append(f"{name}/")
        elif is_directory_part(name) and file.is_file():
            (copies if main and COPY.fullmatch(name) else additional).append(name)
        elif name.endswith(FOREIGN):
            copies.append(name)
    return copies, additional


def weight_map(index: Path) -> dict[str, str]:
    """Shard of each tensor, read from an index file.

    Parameters
    ----------
    index : Path
        Path of an index, such as ``model.safetensors.index.json``.

    Returns
    -------
    dict of str to str
        Tensor name to file name.

    Raises
    ------
    ValueError
        If the file has no ``weight_map``, or a shard is outside of its directory.
    """
    content = read_json(index)
    mapping = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(
            f"{index} must have an object weight_map with the file of each tensor; "
            "download it again, or save the checkpoint again"
        )
    for name, shard in mapping.items():
        if not is_bare(shard):
            raise ValueError(
                f"{index} must name shards by file name, without a folder: tensor "
                f"{name!r} has {shard!r}"
            )
    return mapping


def is_bare(name: Any) -> bool:
    """Whether a value is a file name without folders, which the system can have."""
    if not isinstance(name, str) or "\0" in name or Path(name).name != name:
        return False
    # Lone surrogates of JSON cannot be encoded.
    return 0 < len(name.encode("utf-8", "replace")) <= LONGEST_NAME and name != ".."


def _is_shard(single: Path, index: Path) -> bool:
    shards = set(weight_map(index).values())
    return single.name in shards and len(shards) > 1


def _shards(index: Path) -> list[str]:
    names = sorted(set(weight_map(index).values()))
    for name in names:
        if not (index.parent / name).exists():
            raise ValueError(
                f"{index} names the shard {name!r}, which does not exist; download it, "
                "or save the checkpoint again"
            )
    return names
