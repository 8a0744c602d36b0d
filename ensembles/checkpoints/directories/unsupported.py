"""Detect checkpoints with an invalid mean: adapters, quantized or sharded models."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ensembles.checkpoints.directories.adapters import MERGE_ADAPTERS, adapter_in
from ensembles.checkpoints.directories.quantization import quantized_by
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.dtypes import is_float

# A flat parameter of FSDP is one rank's shard of many flattened parameters.
FLAT = re.compile(r"(.*\.)?_?flat_param(_\d+)?")
PARALLEL = re.compile(r"mp_rank_\d+(?:_\d+)*")  # a rank's file or folder
# A part of a model of fairseq, or of FSDP in fairseq.
PART = re.compile(r"(.*-(?:model_part-|shard|rank-))\d+(\.pt)")
SHARD = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
ZERO = re.compile(r"zero_pp_rank|_model_states")  # file names of DeepSpeed
SHOWN = 3
FEWEST = 8  # one-element parameters; toy models have fewer
PARAMETER = re.compile(r"(.*[._])?(weight|kernel|bias)")


def unsupported_reasons(checkpoint: Checkpoint) -> Iterator[str]:
    """Reasons why a checkpoint cannot be averaged, at most one of each kind.

    Parameters
    ----------
    checkpoint : Checkpoint
        Checkpoint whose configuration and layout are examined; no tensor is read.

    Yields
    ------
    str
        Error message with the name of the checkpoint and advice.
    """
    adapter = adapter_in(checkpoint)
    if adapter:
        family, shown = adapter
        yield (
            f"{checkpoint.name} is a {family} adapter (tensor {shown!r}): the mean of "
            f"its factors is not the mean of its updates; {MERGE_ADAPTERS}"
        )
    quantized = quantized_by(checkpoint)
    if quantized:
        yield (
            f"{checkpoint.name} has quantized weights ({quantized}), which cannot be "
            "averaged without their scales; convert it to bfloat16 first"
        )
    placeholder = _placeholder(checkpoint)
    if placeholder:
        yield (
            f"{checkpoint.name} has placeholders of size "
            f"{checkpoint.layout[placeholder].size} (tensor {placeholder!r}), "
            "as saved by sharded training; make a full state dict first, for DeepSpeed "
            "ZeRO-3 with zero_to_fp32.py in the folder of the run"
        )
    others = _other_ranks(checkpoint)
    if others:
        yield (
            f"{checkpoint.name} has one rank's part of a model with tensor or pipeline "
            f"parallelism: {', '.join(others[:SHOWN])} beside it has others; join them "
            "first, with ds_to_universal.py of DeepSpeed or Megatron's "
            "tools/checkpoint/convert.py"
        )
    parts = _other_parts(checkpoint)
    if parts:
        yield (
            f"{checkpoint.name} has one part of a model: "
            f"{', '.join(parts[:SHOWN])} beside it has others; load the model with "
            "fairseq, and save its state_dict() with torch.save"
        )
    if checkpoint.path is not None and SHARD.fullmatch(checkpoint.path.name):
        yield (
            f"{checkpoint.name} has one rank's chunks of sharded tensors, written by "
            "HuggingFaceStorageWriter; join them first, with "
            "consolidate_safetensors_files of torch.distributed.checkpoint"
        )
    flat = next((name for name in checkpoint.layout if FLAT.fullmatch(name)), None)
    if flat:
        yield (
            f"{checkpoint.name} has one rank's shard of a model flattened by FSDP "
            f"(tensor {flat!r}); save a full state dict first "
            "(StateDictType.FULL_STATE_DICT)"
        )


def _other_ranks(checkpoint: Checkpoint) -> list[str]:
    """Files or folders of other ranks beside a checkpoint of one rank."""
    path = checkpoint.path
    if path is None:
        return []
    for entry in (path, path.absolute().parent):
        rank = PARALLEL.match(entry.name)
        if rank:
            ending = entry.name[rank.end() :]
            return [
                other.name
                for other in sorted(entry.absolute().parent.iterdir())
                if other.name.endswith(ending)
                and PARALLEL.fullmatch(other.name.removesuffix(ending))
                and other.name != entry.name
            ]
    return []


def _other_parts(checkpoint: Checkpoint) -> list[str]:
    """Files with the other parts of a model, beside a file with one."""
    path = checkpoint.path
    part = PART.fullmatch(path.name) if path is not None else None
    if path is None or part is None:
        return []
    others = [
        (PART.fullmatch(e.name), e.name) for e in path.absolute().parent.iterdir()
    ]
    return sorted(
        name
        for match, name in others
        if match and match.groups() == part.groups() and name != path.name
    )


def placeholder_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """Notes on empty tensors, which may be buffers or placeholders of sharded runs.

    Parameters
    ----------
    checkpoint : Checkpoint
        Checkpoint whose layout is examined; no tensor is read.

    Yields
    ------
    str
        Message without the name of the checkpoint.
    """
    layout = checkpoint.layout
    empty = [n for n, t in layout.items() if t.shape == (0,) and is_float(t.dtype)]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        yield (
            f"tensor {empty[0]!r}{more} of size 0: an empty buffer, or a placeholder "
            "for a parameter that is in another file of a sharded run"
        )


def _placeholder(checkpoint: Checkpoint) -> str | None:
    """Name of a placeholder for a parameter, None if not found.

    An empty tensor counts if it is named as a parameter, the file is from DeepSpeed, or
    most tensors are empty. Buffers may be empty, and so may the bias of a layer without
    outputs.
    """
    layout = checkpoint.layout
    empty = [n for n, t in layout.items() if t.shape == (0,) and is_float(t.dtype)]
    is_zero = checkpoint.path is not None and ZERO.search(checkpoint.path.name)
    if empty and (is_zero or 2 * len(empty) > len(layout)):
        return empty[0]
    for name in filter(PARAMETER.fullmatch, empty):
        weight = layout.get(re.sub("bias$", "weight", name))
        if weight is None or weight.size or weight.shape == (0,):
            return name
    # Older DeepSpeed versions leave one element in place of each parameter.
    single = [n for n in filter(PARAMETER.fullmatch, layout) if layout[n].shape == (1,)]
    if len(single) >= FEWEST and 2 * len(single) > len(layout):
        return single[0]
    return None
