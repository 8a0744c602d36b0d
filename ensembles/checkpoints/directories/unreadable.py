"""Explain why a directory cannot be read: its format, and how to convert it."""

from __future__ import annotations

import re
from pathlib import Path

from ensembles.checkpoints.directories.unsupported import SHARD
from ensembles.checkpoints.directories.weight_files import TRAINER, is_weight_file

SHOWN = 5
# Patterns for names of files and folders, with the message for matches.
LAYOUTS = (
    (
        r"__\d+\.metadata",
        "{}: a distributed checkpoint whose ranks were saved without each other; save "
        "it with use_collectives=True",
    ),
    (
        r".*\.distcp|pytorch_model_fsdp_\d+|model_and_optim",
        "{}: a distributed checkpoint without .metadata, which is written last: it is "
        "being saved, or was not saved completely; wait, or take another step",
    ),
    (
        SHARD.pattern,
        "{}: shards by rank that do not say how many ranks there were; join them with "
        "consolidate_safetensors_files of torch.distributed.checkpoint",
    ),
    (
        r"zero_to_fp32\.py|global_step\d+|.*[_-](optim|model)_states\.pt",
        "{}: a DeepSpeed checkpoint; pass mp_rank_00_model_states.pt if it has the "
        "whole model (ZeRO-1 and 2 on one tensor-parallel rank), else join it with its "
        "zero_to_fp32.py first",
    ),
    (
        r"mp_rank_\d+.*|latest_checkpointed_iteration\.txt|iter_\d{7}",
        "{}: a Megatron checkpoint of the old format; convert it with Megatron's "
        "tools/checkpoint/convert.py, to torch_dist or to the Hugging Face layout",
    ),
    (
        r"consolidated\.\d+\.pth|consolidated.*\.safetensors",
        "{}: weights in the layout of Llama or Mistral; if each member has a single "
        "file, pass the files, else convert them to the Hugging Face layout first",
    ),
    (
        r"tf_model.*\.h5|saved_model\.pb|.*\.data-\d+-of-\d+|.*ckpt(-\d+)?\.index"
        r"|.*\.keras|.*\.weights\.h5",
        "{}: TensorFlow weights; convert them first, e.g. with from_tf=True in "
        "transformers before version 5, or save their arrays as .npz files with "
        "numpy.savez",
    ),
    (
        r".*\.msgpack|_CHECKPOINT_METADATA|manifest\.ocdbt|ocdbt\.process_\d+",
        "{}: JAX weights; convert them first, e.g. with from_flax=True in transformers "
        "before version 5, or save their arrays as .npz files with numpy.savez",
    ),
    (
        r".*\.(zarray|zgroup)|zarr\.json",
        "{}: a Zarr store; save its arrays as .npz files with numpy.savez",
    ),
    (
        r".*\.pdparams",
        "{}: PaddlePaddle weights; save their arrays as .npz files with numpy.savez",
    ),
    (
        r".*\.(onnx|tflite|mlmodel|mlpackage|mlmodelc|pte|engine|pdmodel)"
        r"|openvino_model\..*|onnx|openvino|coreml",
        "{}: graphs for inference; average the checkpoints that they were exported "
        "from",
    ),
    (
        r".*\.nemo",
        "{}: a NeMo archive; pass the file itself",
    ),
    (
        r".*-\d+-of-\d+\.(safetensors|bin)",
        "{}: shards without an index (model.safetensors.index.json); download the "
        "index, or save the checkpoint again",
    ),
)
HUB = "it is a folder of the Hugging Face Hub cache; pass its subfolder {} instead"


def explain(path: Path) -> str:
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
        folders = [f"snapshots/{entry.name}" for entry in sorted(snapshots.iterdir())]
        return HUB.format(" or ".join(folders) or "snapshots/REVISION")
    for pattern, text in LAYOUTS:
        matching = [name for name in names if re.fullmatch(pattern, name)]
        if matching:
            return text.format(_listed(matching))
    return _by_name(path, entries)


def _by_name(path: Path, entries: list[Path]) -> str:
    """Advice for a directory with readable files or folders of other names."""
    names = [entry.name for entry in entries]
    folders = [
        entry.name
        for entry in entries
        if entry.is_dir()
        and any(is_weight_file(f.name) for f in entry.iterdir() if f.is_file())
    ]
    is_pipeline = (path / "model_index.json").exists()
    is_run = all(re.search(r"\d", folder) for folder in folders)
    files = [
        entry.name
        for entry in entries
        if is_weight_file(entry.name) and not TRAINER.fullmatch(entry.name)
    ]
    if folders and (is_pipeline or not (is_run or files)):
        return (
            f"the weights are in its folders {', '.join(folders)}; average these one "
            "by one"
        )
    missing = "it has no model.safetensors or pytorch_model.bin"
    if len(files) == 1:
        return f"{missing}; pass the file {files[0]}"
    if files or folders:
        return (
            f"{missing}, but {_listed(files + folders)}; pass the checkpoints to "
            "average, or the last N of them with choose_checkpoints(..., last=N) "
            "(--last N)"
        )
    return f"{missing}, only {_listed(names)}"


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
