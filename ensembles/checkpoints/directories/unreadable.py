"""Explain why a directory cannot be read: its format, and how to convert it."""

from __future__ import annotations

import re
from pathlib import Path

from ensembles.checkpoints.directories.weight_files import READABLE, TRAINER

SHOWN = 5
# Patterns for names of files and folders, with the message for matches.
LAYOUTS = (
    (
        r".*\.distcp|\.metadata",
        "{}: shards of torch.distributed.checkpoint; convert them to one file with "
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR OUT.pt",
    ),
    (
        r"pytorch_model_fsdp_\d+",
        "{}: shards of FSDP; join them with accelerate merge-weights",
    ),
    (
        r"zero_to_fp32\.py|global_step\d+|.*_(optim|model)_states\.pt",
        "{}: a DeepSpeed checkpoint; join it with its zero_to_fp32.py first",
    ),
    (
        r"model_world_size_\d+_rank_\d+\.pt",
        "{}: shards of FSDP by rank; join them with the trainer's own merger first",
    ),
    (
        r"mp_rank_\d+.*|latest_checkpointed_iteration\.txt|iter_\d{7}",
        "{}: a Megatron checkpoint; convert it to Hugging Face's layout first",
    ),
    (
        r"consolidated\.\d+\.pth|consolidated.*\.safetensors",
        "{}: weights in the layout of the original code; average such files by name if "
        "there is one a member, else convert them to Hugging Face's layout first",
    ),
    (
        r"(tf_model.*\.h5|saved_model\.pb|.*\.ckpt\.index|.*\.keras|model\.weights\.h5)",
        "{}: weights of TensorFlow; convert them first, as transformers before version "
        "5 does with from_tf=True, or pass state dicts of numpy arrays",
    ),
    (
        r"flax_model.*\.msgpack|.*\.msgpack|_CHECKPOINT_METADATA",
        "{}: weights of JAX; convert them first, as transformers before version 5 does "
        "with from_flax=True, or pass state dicts of numpy arrays",
    ),
    (
        r".*\.pdparams",
        "{}: weights of Paddle, which are not read; pass state dicts of numpy arrays",
    ),
    (r".*\.gguf", "{}: GGUF is quantized; convert it back to safetensors first"),
    (
        r".*\.(onnx|tflite)|openvino_model\..*|onnx|openvino|coreml",
        "{}: graphs for inference; average the checkpoints that they were made from",
    ),
    (
        r".*\.nemo",
        "{}: NeMo's archive; unpack it with tar -xf, average the .ckpt in it",
    ),
    (
        r".*-\d+-of-\d+\.(safetensors|bin)",
        "{}: shards without their index (model.safetensors.index.json); download or "
        "write it, too",
    ),
)
HUB = "it is a folder of the hub's cache: give its folder {} instead"


def what_lies_in(path: Path) -> str:
    """Describe a directory without readable weight files, with advice.

    Parameters
    ----------
    path : Path
        Path of the directory.

    Returns
    -------
    str
        End of a sentence, for an error message.
    """
    entries = sorted(path.iterdir())
    names = [entry.name for entry in entries]
    if not names:
        return "it is empty"
    snapshots = path / "snapshots"
    if snapshots.is_dir():
        found = [f"snapshots/{entry.name}" for entry in sorted(snapshots.iterdir())]
        return HUB.format(" or ".join(found) or "snapshots/REVISION")
    for pattern, text in LAYOUTS:
        matched = [name for name in names if re.fullmatch(pattern, name)]
        if matched:
            return text.format(_listed(matched))
    return _by_name(path, entries)


def _by_name(path: Path, entries: list[Path]) -> str:
    """Advice for a directory with readable files or folders of other names."""
    names = [entry.name for entry in entries]
    folders = [
        entry.name
        for entry in entries
        if entry.is_dir()
        and any(file.suffix in READABLE for file in entry.iterdir() if file.is_file())
    ]
    is_pipeline = (path / "model_index.json").exists()
    is_run = all(re.search(r"\d", folder) for folder in folders)
    files = [
        entry.name
        for entry in entries
        if entry.suffix in READABLE and not TRAINER.fullmatch(entry.name)
    ]
    if folders and (is_pipeline or not (is_run or files)):
        return f"its folders {', '.join(folders)} do: average them one by one"
    if len(files) == 1:
        return f"no model.safetensors nor pytorch_model.bin; average {files[0]} by name"
    if files or folders:
        return (
            f"no model.safetensors, no pytorch_model.bin, but "
            f"{_listed(files + folders)}; name the checkpoints to average, or expand a "
            "folder of checkpoints by last=N"
        )
    return f"no model.safetensors, no pytorch_model.bin, but {_listed(names)}"


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
