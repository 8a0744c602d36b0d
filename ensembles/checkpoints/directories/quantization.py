"""Detect quantized checkpoints by configuration, tensor names and dtypes.

A quantized tensor has integers or 8-bit floats, and the checkpoint another tensor with
the name of its scale, zero point or codebook. 8-bit floats without scales are casts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ensembles.checkpoints.directories.adapters import names_by_pattern
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float

# Keys of config.json from Hugging Face, MLX and older compressed-tensors.
CONFIG_KEYS = ("quantization_config", "quantization", "compression_config")
# Names used only by packed formats: PACKED for integers, STATE for any dtype.
PACKED = re.compile(
    r"(.*\.)?(qweight|qzeros|q_weight|g_idx|weight_packed|Qidxs|trellis|W_q|bitmask"
    r"|dense_weights|B(_24|_meta)?)"  # the last of Marlin
)
STATE = re.compile(
    r"(.*\.)?(absmax|quant_map|quant_state\..*|SCB|weight_format|comfy_quant"
    r"|_packed_params(\..*)?|scaled_fp8)"
)
# Suffix of a quantized tensor after the name of the parameter.
STORED = re.compile(
    r"([._:]+_data)?[._:]*(u?int[248]|fp[48]|nf4|w_q|q|qdata|quantized|packed|data"
    r"|blocks|codes|indices|idx)$",
    re.IGNORECASE,
)
WEIGHT = re.compile(r"[._:]*weight$")
# Suffix of a scale after the name of the parameter. Learned scales of layers, logits
# and attention are excluded.
SCALE = re.compile(
    r"[._:]*(?!\w*((layer|logit|attn|skip|residual)_?scale|scale_shift))"
    r"\w*(scale|absmax|amax|zero|shift|codebook|centroid|lookup)\w*(\.weight)?",
    re.IGNORECASE,
)
# Integers with these names are quantized even without a tensor named as scale.
INTEGER_WEIGHT = re.compile(
    r"(.*[._:])?(weight|kernel)([._]?(q|u?int[48]|quantized|packed))?"
)
# Integers wider than a byte are indices or counts, unless their name matches.
WIDE = re.compile(
    r".*(weight|w_q|qdata|packed|data|codes|indices|idx|blocks)", re.IGNORECASE
)
SEPARATOR = re.compile(r"[._:]+")
LONGEST = 64  # characters at the end of a name that are searched for suffixes


def quantized_by(checkpoint: Checkpoint) -> str | None:
    """Evidence that a checkpoint is quantized.

    Parameters
    ----------
    checkpoint : Checkpoint
        Checkpoint whose configuration, tensor names and dtypes are examined; no tensor
        is read.

    Returns
    -------
    str or None
        Configuration entry or tensors, for messages; None if it is not quantized.
    """
    return _by_config(checkpoint.config) or _by_tensors(checkpoint.layout)


def _by_config(config: Mapping[str, Any]) -> str | None:
    for key in CONFIG_KEYS:
        value = config.get(key)
        if value:
            is_named = isinstance(value, dict) and "quant_method" in value
            return f"config.json has {value['quant_method'] if is_named else value!r}"
    # Multimodal models nest configurations: text_config, llm_config, thinker_config.
    parts = (
        value
        for key, value in config.items()
        if key.endswith("_config") and isinstance(value, dict)
    )
    return next(filter(None, map(_by_config, parts)), None)


def _by_tensors(layout: Mapping[str, Tensor]) -> str | None:
    for name in names_by_pattern(layout):
        if STATE.fullmatch(name) or (
            PACKED.fullmatch(name) and _is_packed(layout, name)
        ):
            return f"tensor {name!r}"
    coded = [name for name, tensor in layout.items() if _is_coded(name, tensor)]
    scales = _scales(layout) if coded else {}
    for name in coded:
        tensor = layout[name]
        for scale in (s for stem in _stems(name) for s in scales.get(stem, ())):
            if scale != name and _is_scale(layout[scale], tensor):
                return f"tensor {scale!r} scales {name!r}, of {tensor.dtype}"
    for name, tensor in layout.items():
        if _is_integer_weight(name, tensor):
            return f"tensor {name!r} of {tensor.dtype}"
    return None


def _scales(layout: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of scales, by each possible name of the scaled parameter."""
    scales: dict[str, list[str]] = {}
    for name in layout:
        for separator in SEPARATOR.finditer(name, max(0, len(name) - LONGEST)):
            if SCALE.fullmatch(name, separator.start()):
                scales.setdefault(name[: separator.start()], []).append(name)
    return scales


def _stems(name: str) -> Iterator[str]:
    """Possible names of the parameter that a quantized tensor stores."""
    start = max(0, len(name) - LONGEST)
    stem = name[:start] + STORED.sub("", name[start:], count=1)
    yield from dict.fromkeys([name, stem, WEIGHT.sub("", stem)])


def _is_packed(layout: Mapping[str, Tensor], name: str) -> bool:
    # W_q is also a usual name of float matrices in attention; HQQ adds scale and zero.
    stem = name.removesuffix("W_q")
    is_hqq = stem != name and {f"{stem}scale", f"{stem}zero"} <= layout.keys()
    return is_hqq or not is_float(layout[name].dtype)


def _is_integer_weight(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is an integer matrix, packed or 8-bit, named as a weight."""
    is_narrow = tensor.dtype.itemsize == 1 or tensor.dtype in (np.int32, np.uint32)
    return (
        tensor.dtype.kind in "iu"
        and is_narrow
        and len(tensor.shape) >= 2
        and INTEGER_WEIGHT.fullmatch(name) is not None
    )


def _is_coded(name: str, tensor: Tensor) -> bool:
    """Whether the dtype and name of a tensor are possible for a quantized one."""
    if tensor.size < 2:
        return False
    if tensor.dtype.itemsize == 1:
        return is_float(tensor.dtype) or tensor.dtype.kind in "iu"
    is_matrix = tensor.dtype.itemsize <= 4 and len(tensor.shape) >= 2
    return tensor.dtype.kind in "iu" and is_matrix and bool(WIDE.fullmatch(name))


def _is_scale(scale: Tensor, coded: Tensor) -> bool:
    # A plain cast to 8-bit floats narrows tensors named as scales too, so these do not
    # count. 8-bit exponents are stored as uint8.
    is_narrow = scale.dtype.itemsize == 1 and is_float(coded.dtype)
    return scale.dtype == np.uint8 or (is_float(scale.dtype) and not is_narrow)
