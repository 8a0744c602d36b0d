"""Hugging Face and sentence-transformers directories: weights and files around them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensembles.checkpoints.formats import safetensors, torch_zip
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.regular_files import read_json

# Stems of the files of weights by suffix, the first found being the one meant.
STEMS = {
    ".safetensors": ("model", "diffusion_pytorch_model", "pytorch_model"),
    ".bin": ("pytorch_model", "diffusion_pytorch_model", "model"),
}
LARGEST_CARRIED = 64 << 20
# What is not carried over: weights of any framework, and what a trainer leaves.
LEFT = re.compile(
    r"\..*|.*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|gguf|npz|tflite|ot)"
    r"|.*\.index\.json|trainer_state.*"
)
TRAINER = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state).*")
TOKENIZERS = re.compile(
    r"(tokenizer|vocab)\.(json|txt|model)|merges\.txt|(spiece|sentencepiece)\..*model"
)


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Layout of a directory: of all its modules, where it has several.

    Names of a module's tensors begin with its folder, as ``2_Dense/linear.weight``;
    those of the directory's own weights stand for themselves.

    Parameters
    ----------
    path : Path
    key : str or None, default=None
        As in a file of `torch_zip`.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If there are no weights, an index contradicts its shards or leaves the
        directory, or the directory holds an adapter.
    """
    if (path / "adapter_config.json").exists():
        raise ValueError(
            f"{path} is a PEFT adapter: the mean of its factors is not the mean of "
            "its updates; merge each adapter into its base model first"
        )
    found = Checkpoint(str(path), "directory", path, {}, config=_config(path))
    for module in modules(path):
        names, index = _chosen(path / module)
        shards = [_shard(path / module / name, key) for name in names]
        if index is not None:
            _check_index(index, dict(zip(names, shards, strict=True)))
        for name, shard in zip(names, shards, strict=True):
            _join(found, module, name, shard)
    if not found.layout:
        raise ValueError(
            f"{path} holds no weights: no model.safetensors, no index of shards, no "
            f"pytorch_model.bin; {_way_out(path)}"
        )
    found.files.extend(_carried(path))
    return found


def modules(path: Path) -> list[str]:
    """Folders of a directory that may hold weights, itself first as ``""``."""
    folders = [""]
    listed = path / "modules.json"
    if listed.exists():
        entries = read_json(listed)
        for entry in entries if isinstance(entries, list) else []:
            folder = entry.get("path", "") if isinstance(entry, dict) else ""
            if folder and not _is_bare(folder):
                raise ValueError(f"{listed} leaves its directory: {folder!r}")
            if folder and folder not in folders:
                folders.append(folder)
    return folders


def weight_files(path: Path) -> list[str]:
    """Names of the files of weights in one folder, the shards of an index in order."""
    return _chosen(path)[0]


def _config(path: Path) -> dict[str, Any]:
    listed = path / "config.json"
    found = read_json(listed) if listed.exists() else {}
    return found if isinstance(found, dict) else {}


def _chosen(path: Path) -> tuple[list[str], Path | None]:
    """Names of the files of weights in one folder, and the index that names them."""
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


def _is_shard(single: Path, index: Path) -> bool:
    shards = set(_weight_map(index).values())
    return single.name in shards and len(shards) > 1


def _way_out(path: Path) -> str:
    folders = [
        folder.name
        for folder in sorted(path.iterdir())
        if folder.is_dir()
        and any(file.suffix in STEMS for file in folder.iterdir() if file.is_file())
    ]
    is_pipeline = (path / "model_index.json").exists()
    is_run = all(re.search(r"\d", folder) for folder in folders)
    if folders and (is_pipeline or not is_run):
        return f"its folders {', '.join(folders)} do: average them one by one"
    return "expand a folder of checkpoints by last=N"


def _is_bare(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and name not in ("", "..")


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index)
    mapping = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(f"{index} has no weight_map")
    for name, shard in mapping.items():
        if not _is_bare(shard):
            raise ValueError(
                f"{index} leaves its directory: tensor {name!r} is said to be in "
                f"{shard!r}; shards must be named by file name alone"
            )
    return mapping


def _shards(index: Path) -> list[str]:
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if not (index.parent / name).exists():
            raise ValueError(f"{index} names shard {name!r}, which is not there")
    return names


def _shard(path: Path, key: str | None) -> Checkpoint:
    if path.suffix == ".safetensors":
        return safetensors.read(path)
    return torch_zip.read(path, key)


def _check_index(index: Path, shards: dict[str, Checkpoint]) -> None:
    """The index must name each tensor of each shard, where it is, and no other."""
    mapping = _weight_map(index)
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


def _join(found: Checkpoint, module: str, name: str, shard: Checkpoint) -> None:
    prefix = f"{module}/" if module else ""
    layout = {prefix + tensor: place for tensor, place in shard.layout.items()}
    found.layout.update(layout)
    found.aliases.update({prefix + a: prefix + k for a, k in shard.aliases.items()})
    found.parts[prefix + name] = list(layout)
    found.records.extend(shard.records)


def _carried(path: Path) -> Iterator[str]:
    for folder in [*modules(path), "additional_chat_templates"]:
        if not (path / folder).is_dir():
            continue
        for file in sorted((path / folder).iterdir()):
            small = file.is_file() and file.stat().st_size <= LARGEST_CARRIED
            if small and not (
                LEFT.fullmatch(file.name) or TRAINER.fullmatch(file.name)
            ):
                yield str(file.relative_to(path))
