"""Which files of a folder hold its weights, and which hold copies of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ensembles.regular_files import read_json

# Stems of the main file of weights by suffix, the first that exists being the one
# meant; the last two are of PEFT and of AdapterHub.
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
# Weights in the formats of other frameworks.
FOREIGN = (
    *(".h5", ".keras", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot"),
    *(".mlmodel", ".mlpackage", ".pdparams", ".pdiparams", ".engine", ".nemo"),
)
# What trainers leave beside weights: states of optimizers, of random generators, ….
TRAINER = re.compile(
    r"((lr_)?scheduler|grad_scaler|scaler(?!\.(pkl|joblib))|training_args|training_state|trainer"
    r"|rng_state|random_states|sampler|custom_checkpoint|dl_state_dict)([._-].*)?"
    r"|optim(izer)?([._\-\d].*)?|opt\d*\.pt|.*[_-]optim(izer)?(_states?)?\.(pt|bin)"
    r"|meta([._-]\d+)?\.(pt|pth|bin)"
)
# Other copies of a folder's weights: variants of precision, of a framework, of a
# sharding, under the names by which they are published.
COPY = re.compile(
    r"(model|pytorch_model|diffusion_pytorch_model|openvino_model|tf_model|flax_model"
    r"|open_clip_(pytorch_)?model|consolidated|weights|pytorch_model_fsdp|rust_model"
    r"|adapter_model|adapter|pytorch_adapter)"
    r"([._-](fp\d+|bf16|int[48]|ema|non_ema|q\w*|quantized|optimized|fused|\d+))*"
    r"(-\d+-of-\d+)?\.\w+"
)

# Folders of copies in other formats, or in the layout of the original code.
COPIES = {"onnx", "openvino", "original", "coreml", "gguf", "flax", "tf", "metal"}


def weight_files(path: Path) -> list[str]:
    """Names of the main files of weights in one folder, shards in order."""
    return chosen(path)[0]


def chosen(path: Path) -> tuple[list[str], Path | None]:
    """Main files of weights in one folder, and the index that names them.

    Parameters
    ----------
    path : Path

    Returns
    -------
    names : list of str
        Empty if the folder has no weights under a usual name.
    index : Path or None

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
            # A dot tells a variant, as in model.fp16.safetensors.index.json.
            if "." not in index.name.removesuffix(f"{suffix}.index.json"):
                return _shards(index), index
    return [], None


def others(path: Path, taken: list[str]) -> tuple[list[str], list[str]]:
    """Further files of weights in a folder.

    Parameters
    ----------
    path : Path
    taken : list of str
        Names of the main files.

    Returns
    -------
    copies, extras : list of str
        Names of files that hold the main weights once more, by their names; names of
        all others.
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
    """Name of the file of each tensor, as an index has it.

    Parameters
    ----------
    index : Path

    Returns
    -------
    dict of str to str

    Raises
    ------
    ValueError
        If it is no such index, or leaves its directory.
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
    """Whether it is the name of a file, without folders."""
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
