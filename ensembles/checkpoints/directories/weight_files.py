"""Find the main weight files of a folder, copies of them, and additional ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ensembles.regular_files import read_json

# Stems of the main weight file by suffix; the first that exists is used. The last two
# are those of PEFT and AdapterHub.
STEMS = {
    ".safetensors": (
        *("model", "diffusion_pytorch_model", "pytorch_model", "adapter_model"),
        "adapter",
    ),
    ".bin": (
        *("pytorch_model", "diffusion_pytorch_model", "model", "adapter_model"),
        "pytorch_adapter",
    ),
}
READABLE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".sft")
# Suffixes of weight files of other frameworks.
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


def weight_files(path: Path) -> list[str]:
    """Names of the main weight files in one folder, with shards in order."""
    return chosen(path)[0]


def chosen(path: Path) -> tuple[list[str], Path | None]:
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
    for suffix, stems in STEMS.items():
        for stem in stems:
            single, index = path / (stem + suffix), path / f"{stem}{suffix}.index.json"
            if single.exists() and not (index.exists() and _is_shard(single, index)):
                return [single.name], None
            if index.exists():
                return _shards(index), index
        for index in sorted(path.glob(f"*{suffix}.index.json")):
            # A dot marks a variant, as in model.fp16.safetensors.index.json.
            if "." not in index.name.removesuffix(f"{suffix}.index.json"):
                return _shards(index), index
    return [], None


def others(path: Path, taken: list[str]) -> tuple[list[str], list[str]]:
    """Weight files in a folder beside the main ones.

    Parameters
    ----------
    path : Path
        Path of the folder; its subfolders are not searched.
    taken : list of str
        Names of the main weight files.

    Returns
    -------
    copies : list of str
        Names of files and folders that, by name, are copies of the main weight files.
    extras : list of str
        Names of all other weight files.
    """
    copies: list[str] = []
    extras: list[str] = []
    for file in sorted(path.iterdir()):
        name = file.name
        if name in taken or name.startswith(".") or TRAINER.fullmatch(name):
            continue
        if name in COPIES and file.is_dir():
            copies.append(f"{name}/")
        elif name.endswith(FOREIGN):
            copies.append(name)
        elif file.suffix in READABLE and file.is_file():
            (copies if taken and COPY.fullmatch(name) else extras).append(name)
    return copies, extras


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
    found = read_json(index)
    mapping = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(f"{index} has no weight_map")
    for name, shard in mapping.items():
        if not is_bare(shard):
            raise ValueError(
                f"{index} leaves its directory: tensor {name!r} is said to be in "
                f"{shard!r}; shards must be named by file name alone"
            )
    return mapping


def is_bare(name: Any) -> bool:
    """Whether a value is a file name without folders."""
    return isinstance(name, str) and Path(name).name == name and name not in ("", "..")


def _is_shard(single: Path, index: Path) -> bool:
    shards = set(weight_map(index).values())
    return single.name in shards and len(shards) > 1


def _shards(index: Path) -> list[str]:
    names = sorted(set(weight_map(index).values()))
    for name in names:
        if not (index.parent / name).exists():
            raise ValueError(f"{index} names shard {name!r}, which is not there")
    return names
