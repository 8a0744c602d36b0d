"""Adapters in opened checkpoints, in any naming."""

from __future__ import annotations

from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.lora import kohya
from ensembles.checkpoints.formats.lora.adapter import Adapter
from ensembles.checkpoints.formats.lora.kohya import read_kohya
from ensembles.checkpoints.formats.lora.peft import parse, read_peft


def adapter_of(checkpoint: Checkpoint) -> Adapter:
    """Updates in a checkpoint with the names of PEFT, diffusers or kohya.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights of an adapter, with ``adapter_config.json`` as its ``config``.

    Returns
    -------
    Adapter

    Raises
    ------
    ValueError
        If it has no LoRA adapter, or a damaged one.
    """
    if _has_kohya_names(checkpoint):
        return read_kohya(checkpoint)
    if checkpoint.config.get("peft_type") or is_adapter(checkpoint):
        return read_peft(checkpoint)
    first = next(iter(checkpoint.layout), None)
    raise ValueError(
        f"{checkpoint.name} must be a LoRA adapter with the names of PEFT (lora_A, "
        f"lora_B) or kohya (lora_down, lora_up), found tensor {first!r}"
    )


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has factors with the names of PEFT, diffusers or kohya.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened checkpoint.

    Returns
    -------
    bool
    """
    return _has_kohya_names(checkpoint) or any(map(parse, checkpoint.layout))


def _has_kohya_names(checkpoint: Checkpoint) -> bool:
    matches = map(kohya.PART.fullmatch, checkpoint.layout)
    return any(match["factor"] for match in matches if match)
