"""Checkpoints whose plain mean would be silently wrong, told by names and dtypes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.floats import is_float

ADAPTER = re.compile(r"(^|.*\.)(lora_(embedding_)?[AB]|lora_magnitude_vector)(\..*|$)")
PACKED = re.compile(
    r".*\.(qweight|qzeros|g_idx|absmax|quant_map|quant_state\..*|SCB|weight_packed"
    r"|weight_format)$"
)
BLOCKS = re.compile(r"(.*[._])blocks")  # MXFP4, with scales beside
HQQ = re.compile(r"(.*\.)?W_q")
SCALE = re.compile(r"(.*)[._](scale|scale_inv|scales|scale_2|weight_scale)$")


def refused(checkpoint: Checkpoint) -> Iterator[str]:
    """Reasons why a checkpoint cannot be averaged, the first of each kind.

    Parameters
    ----------
    checkpoint : Checkpoint

    Yields
    ------
    str
    """
    for name in checkpoint.layout:
        if ADAPTER.fullmatch(name):
            yield (
                f"{checkpoint.name} is a PEFT adapter (tensor {name!r}): the mean of "
                "its factors is not the mean of its updates; merge each adapter into "
                "its base model first"
            )
            break
    quantised = _quantised(checkpoint)
    if quantised:
        yield (
            f"{checkpoint.name} holds quantised weights ({quantised}), whose stored "
            "numbers mean nothing without their scales; convert it to bfloat16 first"
        )


def _quantised(checkpoint: Checkpoint) -> str | None:
    config = checkpoint.config.get("quantization_config")
    if config is not None:
        method = config.get("quant_method") if isinstance(config, dict) else config
        return f"config.json says {method!r}"
    for name in checkpoint.layout:
        if PACKED.fullmatch(name):
            return f"tensor {name!r}"
        if HQQ.fullmatch(name) and _is_hqq(checkpoint, name):
            return f"tensor {name!r}"
        blocks = BLOCKS.fullmatch(name)
        if blocks and _is_uint8(checkpoint, name, f"{blocks[1]}scales"):
            return f"tensor {name!r} has its scales in '{blocks[1]}scales'"
        scale = SCALE.fullmatch(name)
        if scale:
            for scaled in (scale[1], f"{scale[1]}.weight"):
                held = checkpoint.layout.get(scaled)
                if held is not None and _is_narrow(held.dtype):
                    return f"tensor {name!r} scales {scaled!r}, of {held.dtype}"
    return None


def _is_hqq(checkpoint: Checkpoint, name: str) -> bool:
    # Attention written by hand calls its float matrices W_q too.
    stem = name.removesuffix("W_q")
    beside = {f"{stem}scale", f"{stem}zero"} <= checkpoint.layout.keys()
    return beside or not is_float(checkpoint.layout[name].dtype)


def _is_uint8(checkpoint: Checkpoint, *names: str) -> bool:
    held = [checkpoint.layout.get(name) for name in names]
    return all(tensor is not None and tensor.dtype == np.uint8 for tensor in held)


def _is_narrow(dtype: np.dtype[np.generic]) -> bool:
    return dtype.itemsize == 1 and (is_float(dtype) or dtype.kind in "iu")
